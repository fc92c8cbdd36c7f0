//! Names of what the step journals. The forward and the undo program must agree on them.

use crate::ecs::document::Wanted;

/// Each without the step's own name.
pub(crate) struct Names {
    pub(crate) before: String,
    pub(crate) current: String,
    pub(crate) verdict: String,
    pub(crate) register: String,
    pub(crate) deregister: String,
    pub(crate) update: String,
    pub(crate) create: String,
    pub(crate) delete: String,
}

impl Names {
    pub(crate) fn of(wanted: &Wanted) -> Self {
        let (service, family) = (&wanted.service, &wanted.family);
        Self {
            before: format!("before/{service}"),
            current: format!("current/{service}"),
            verdict: format!("verdict/{service}"),
            register: format!("registerTaskDefinition/{family}"),
            deregister: format!("deregisterTaskDefinition/{family}"),
            update: format!("updateService/{service}"),
            create: format!("createService/{service}"),
            delete: format!("deleteService/{service}"),
        }
    }
}

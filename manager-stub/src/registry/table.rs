//! One sort of thing that is remembered: by name in memory, as JSON in the store.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::store::contract::StoreError;
use crate::store::op::{TrustChange, TrustRow};

/// Something that is remembered.
pub(super) trait Remembered: Serialize + DeserializeOwned + Clone {
    /// What the store calls it.
    const KIND: &'static str;

    /// The same as it is meant today, if a manager before this one wrote it.
    #[must_use]
    fn upgraded(self) -> Self {
        self
    }
}

/// See the module.
pub(super) struct Table<T> {
    rows: BTreeMap<String, (T, Bytes)>,
}

/// A change that is ready to be stored, and then to be seen.
pub(super) struct Pending<T> {
    name: String,
    after: Option<(T, Bytes)>,
    pub(super) change: TrustChange,
}

impl<T: Remembered> Table<T> {
    pub(super) fn load(rows: &[TrustRow]) -> Result<Self, StoreError> {
        let ours = rows.iter().filter(|row| row.kind == T::KIND);
        let rows = ours
            .map(|row| {
                let value: T = serde_json::from_slice(&row.body).map_err(|error| StoreError::Corrupt {
                    what: T::KIND,
                    value: format!("{}: {error}", row.name),
                })?;
                // The body stays: what is changed is compared with what is stored.
                Ok((row.name.clone(), (value.upgraded(), row.body.clone())))
            })
            .collect::<Result<_, StoreError>>()?;
        Ok(Self { rows })
    }

    pub(super) fn get(&self, name: &str) -> Option<&T> {
        self.rows.get(name).map(|(value, _)| value)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &T> {
        self.rows.values().map(|(value, _)| value)
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn pending(&self, name: &str, after: Option<T>) -> Pending<T> {
        let after = after.map(|value| {
            // Plain structs of text and numbers always have a JSON form.
            let body = serde_json::to_vec(&value).unwrap_or_default();
            (value, Bytes::from(body))
        });
        Pending {
            change: TrustChange {
                kind: T::KIND,
                name: name.into(),
                before: self.rows.get(name).map(|(_, body)| body.clone()),
                after: after.as_ref().map(|(_, body)| body.clone()),
            },
            name: name.into(),
            after,
        }
    }

    pub(super) fn see(&mut self, pending: Pending<T>) {
        match pending.after {
            Some(row) => self.rows.insert(pending.name, row),
            None => self.rows.remove(&pending.name),
        };
    }
}

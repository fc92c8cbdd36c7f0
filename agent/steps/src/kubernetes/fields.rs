//! Who owns which field of an object, as its `managedFields` tell. Used by `before` and `found` to tell a
//! change that somebody made from what controllers do all the time. Paths are those of the API server's
//! `FieldsV1`: `f:<field>`, `k:<keys of a list element>`, `v:<value of a set>`, and `.` for the thing itself.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::before::FIELD_MANAGER;

/// From the object's root to what is owned.
pub(crate) type Path = Vec<String>;

/// Works for everybody, all the time, and is nobody's wish.
const CONTROLLER_MANAGER: &str = "kube-controller-manager";

/// Does this entry say what somebody wants the object to be? Not if it is about a subresource (status,
/// scale), of the controller manager, or about nothing but finalizers: those are a controller's note that it
/// has something to clean up.
pub(crate) fn is_wish(entry: &Value) -> bool {
    let text = |key| entry.get(key).and_then(Value::as_str).unwrap_or_default();
    let is_note = |path: &Path| path.starts_with(&["f:metadata".to_owned(), "f:finalizers".to_owned()]);
    if !text("subresource").is_empty() || text("manager") == CONTROLLER_MANAGER {
        return false;
    }
    let owned = paths(entry);
    owned.is_empty() || !owned.iter().all(is_note)
}

/// All entries.
pub(crate) fn entries(object: &Value) -> impl Iterator<Item = &Value> {
    let entries = object.pointer("/metadata/managedFields").and_then(Value::as_array);
    entries.into_iter().flatten()
}

/// The entries that are wishes.
pub(crate) fn wishes(object: &Value) -> impl Iterator<Item = &Value> {
    entries(object).filter(|entry| is_wish(entry))
}

/// The manager of an entry.
pub(crate) fn manager(entry: &Value) -> &str {
    entry.get("manager").and_then(Value::as_str).unwrap_or_default()
}

/// What somebody else wants differently in `live` than in `earlier`, apart from what our own apply took
/// over: their name and the path. None while everything that others own is as it was.
///
/// It is exact where a digest of the whole object is not: it needs nothing recorded after our apply, so it
/// also sees what happened before an apply was adopted, and it never takes a controller's work for a change.
pub(crate) fn changed_by_others(earlier: &Value, live: &Value) -> Option<(String, Path)> {
    let (theirs_before, theirs) = (of_others(earlier), of_others(live));
    let ours = of_us(live);
    let uncounted: BTreeSet<Path> = entries(live).filter(|one| !is_wish(one)).flat_map(paths).collect();
    let none = BTreeSet::new();
    for (name, now) in &theirs {
        let before = theirs_before.get(name).unwrap_or(&none);
        for path in now {
            let taken_in = ours.iter().any(|our| our.len() > path.len() && our.starts_with(path));
            if !before.contains(path) || (!taken_in && at(earlier, path) != at(live, path)) {
                return Some((name.clone(), path.clone()));
            }
        }
    }
    for (name, before) in &theirs_before {
        let now = theirs.get(name).unwrap_or(&none);
        for path in before.difference(now) {
            // Whoever owns a thing without what is in it (`.`) loses it to whoever owns something in it.
            let thing = path.strip_suffix(&[".".to_owned()]).unwrap_or(path);
            let taken_over = |by: &BTreeSet<Path>| by.iter().any(|other| other.starts_with(thing));
            if !taken_over(&ours) && !taken_over(&uncounted) {
                return Some((name.clone(), path.clone()));
            }
        }
    }
    None
}

/// Removes what is owned by nobody's wish: by subresources and controllers alone.
pub(crate) fn remove_controllers(object: &mut Value) {
    let wished: BTreeSet<Path> = wishes(object).flat_map(paths).collect();
    let theirs: BTreeSet<Path> = entries(object).filter(|one| !is_wish(one)).flat_map(paths).collect();
    for path in theirs {
        if !wished.iter().any(|wish| wish.starts_with(&path)) {
            remove(object, &path);
        }
    }
}

/// A path for people: `data.colour`, `spec.template.spec.containers[name=app].image`.
pub(crate) fn shown(path: &[String]) -> String {
    let mut text = String::new();
    for part in path {
        match part.split_once(':') {
            Some(("f", name)) => {
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(name);
            }
            Some(("k", keys)) => {
                let keys: BTreeMap<String, Value> = serde_json::from_str(keys).unwrap_or_default();
                let keys: Vec<String> = keys
                    .iter()
                    .map(|(key, value)| {
                        format!(
                            "{key}={}",
                            value.as_str().map_or_else(|| value.to_string(), str::to_owned)
                        )
                    })
                    .collect();
                text.push_str(&format!("[{}]", keys.join(",")));
            }
            _ => {}
        }
    }
    text
}

fn of_others(object: &Value) -> BTreeMap<String, BTreeSet<Path>> {
    let mut all = BTreeMap::<String, BTreeSet<Path>>::new();
    for entry in wishes(object).filter(|entry| manager(entry) != FIELD_MANAGER) {
        all.entry(manager(entry).to_owned()).or_default().extend(paths(entry));
    }
    all
}

fn of_us(object: &Value) -> BTreeSet<Path> {
    let ours = wishes(object).filter(|entry| manager(entry) == FIELD_MANAGER);
    ours.flat_map(paths).collect()
}

/// What an entry owns.
pub(crate) fn paths(entry: &Value) -> BTreeSet<Path> {
    let mut found = BTreeSet::new();
    if let Some(fields) = entry.get("fieldsV1") {
        collect(fields, &mut Vec::new(), &mut found);
    }
    found
}

fn collect(fields: &Value, path: &mut Path, found: &mut BTreeSet<Path>) {
    let Some(fields) = fields.as_object() else { return };
    for (key, inside) in fields {
        path.push(key.clone());
        if inside.as_object().is_none_or(serde_json::Map::is_empty) {
            found.insert(path.clone());
        } else {
            collect(inside, path, found);
        }
        path.pop();
    }
}

/// What is at a path. For `.`, which owns a thing and not what is in it: that it is there.
fn at(object: &Value, path: &[String]) -> Option<Value> {
    let mut value = object;
    for part in path {
        if part == "." {
            return Some(Value::Bool(true));
        }
        value = match part.split_once(':')? {
            ("f", name) => value.get(name)?,
            (kind, text) => value
                .as_array()?
                .iter()
                .find(|element| is_element(element, kind, text))?,
        };
    }
    Some(value.clone())
}

fn remove(object: &mut Value, path: &[String]) {
    let Some((last, parents)) = path.split_last() else {
        return;
    };
    let mut value = object;
    for part in parents {
        let inside = match part.split_once(':') {
            Some(("f", name)) => value.get_mut(name),
            Some((kind, text)) => value
                .as_array_mut()
                .and_then(|elements| elements.iter_mut().find(|element| is_element(element, kind, text))),
            None => None,
        };
        let Some(inside) = inside else { return };
        value = inside;
    }
    match (last.split_once(':'), value) {
        (Some(("f", name)), Value::Object(entries)) => {
            entries.remove(name);
        }
        (Some((kind, text)), Value::Array(elements)) => elements.retain(|element| !is_element(element, kind, text)),
        // `.` alone: what is in it has paths of its own.
        _ => {}
    }
}

/// Is it the element of a list that `k:{…}` or `v:…` means?
fn is_element(element: &Value, kind: &str, text: &str) -> bool {
    let Ok(wanted) = serde_json::from_str::<Value>(text) else {
        return false;
    };
    match (kind, wanted.as_object()) {
        ("k", Some(keys)) => keys.iter().all(|(key, value)| element.get(key) == Some(value)),
        ("v", _) => *element == wanted,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry(manager: &str, fields: Value) -> Value {
        json!({"manager": manager, "operation": "Apply", "fieldsV1": fields})
    }

    fn settings(data: Value, entries: Value) -> Value {
        json!({"metadata": {"managedFields": entries}, "data": data})
    }

    fn told(earlier: &Value, live: &Value) -> String {
        changed_by_others(earlier, live).map_or("nothing".into(), |(name, path)| format!("{name}: {}", shown(&path)))
    }

    #[test]
    fn a_value_that_a_co_owner_changed_is_seen_although_owners_are_the_same() {
        let x = json!({"f:data": {"f:x": {}}});
        let y = json!({"f:data": {"f:y": {}}});
        let earlier = settings(json!({"x": "helm-1"}), json!([entry("helm", x.clone())]));
        let both = json!([entry("helm", x), entry("deputy", y)]);
        let applied = settings(json!({"x": "helm-1", "y": "ours"}), both.clone());
        let since = settings(json!({"x": "helm-2", "y": "ours"}), both);
        assert_eq!(told(&earlier, &applied), "nothing");
        assert_eq!(told(&earlier, &since), "helm: data.x");
    }

    #[test]
    fn what_we_took_over_is_no_change_and_what_others_took_or_dropped_is() {
        let image = |names: &[&str]| {
            let fields: serde_json::Map<String, Value> =
                names.iter().map(|name| (format!("f:{name}"), json!({}))).collect();
            json!({"f:spec": {"f:containers": {r#"k:{"name":"app"}"#: fields}}})
        };
        let object = |text: &str, entries: Value| json!({"metadata": {"managedFields": entries}, "spec": {"containers": [{"name": "app", "image": text}]}});
        let earlier = object("a", json!([entry("helm", image(&["image", "args"]))]));
        let forced = object(
            "b",
            json!([entry("helm", image(&["args"])), entry("deputy", image(&["image"]))]),
        );
        assert_eq!(told(&earlier, &forced), "nothing");
        let dropped = object("b", json!([entry("deputy", image(&["image"]))]));
        assert_eq!(told(&earlier, &dropped), "helm: spec.containers[name=app].args");
        let edited = object(
            "c",
            json!([
                entry("helm", image(&["args"])),
                entry("kubectl-edit", image(&["image"]))
            ]),
        );
        assert_eq!(told(&earlier, &edited), "kubectl-edit: spec.containers[name=app].image");
    }

    #[test]
    fn controllers_autoscalers_and_finalizers_are_no_change() {
        let spec = json!({"f:spec": {"f:replicas": {}}});
        let earlier = json!({"metadata": {"managedFields": [entry("helm", spec.clone())]}, "spec": {"replicas": 2}});
        let mut scaled = entry("kubectl", spec);
        scaled["subresource"] = json!("scale");
        let bound = entry(CONTROLLER_MANAGER, json!({"f:spec": {"f:volumeName": {}}}));
        let note = entry(
            "load-balancer",
            json!({"f:metadata": {"f:finalizers": {".": {}, "v:\"x\"": {}}}}),
        );
        let live =
            json!({"metadata": {"managedFields": [scaled, bound, note]}, "spec": {"replicas": 5, "volumeName": "v"}});
        assert_eq!(told(&earlier, &live), "nothing");
    }

    #[test]
    fn a_map_that_somebody_owned_empty_and_we_filled_is_no_change_of_theirs() {
        let object = |data: Value, entries: Value| settings(data, entries);
        let empty = entry("helm", json!({"f:data": {}}));
        let filled = entry("deputy", json!({"f:data": {"f:x": {}}}));
        let earlier = object(json!({}), json!([empty]));
        assert_eq!(
            told(&earlier, &object(json!({"x": "1"}), json!([empty, filled]))),
            "nothing"
        );
    }

    #[test]
    fn what_only_controllers_own_is_removed_and_what_is_wished_stays() {
        let mut object = json!({"metadata": {"managedFields": [
            entry("deputy", json!({"f:spec": {"f:size": {}, "f:rules": {r#"k:{"name":"a"}"#: {".": {}, "f:name": {}}}}})),
            entry(CONTROLLER_MANAGER, json!({"f:spec": {"f:volumeName": {}, "f:size": {}, "f:tags": {"v:\"t\"": {}}, "f:rules": {r#"k:{"name":"b"}"#: {}}}})),
        ]}, "spec": {"size": 1, "volumeName": "v", "tags": ["t", "u"], "rules": [{"name": "a"}, {"name": "b"}]}});
        remove_controllers(&mut object);
        assert_eq!(
            object["spec"],
            json!({"size": 1, "tags": ["u"], "rules": [{"name": "a"}]})
        );
    }
}

//! `segfs du --versions`.

use std::path::Path;

use segfs::{
    console::{Outcome, Output, size},
    serve::{space, version::path_value},
};
use serde_json::json;

use super::target::Target;

/// Says what takes space at and below a path.
pub fn run(path: &Path, out: &mut Output) -> Outcome<()> {
    let target = Target::find(path, &format!("the space of {} can't be told", path.display()))?;
    let inside = target.path();
    let request = json!({"request": "du", "path": path_value(inside)});
    let found = target.run("counting", out.json, &request, |store, told| space::du(store, inside, told))?;
    if out.json {
        return out.value(&found);
    }
    let rows: Vec<_> = [
        ("present", "what files show now"),
        ("history", "what only versions show: removing them would free it"),
        ("dead", "what nothing shows: the cleaner gives it back"),
        ("metadata", "operations and bases"),
        ("shared", "of present and history, what files elsewhere show too"),
    ]
    .iter()
    .map(|(field, means)| {
        vec![size(found[*field].as_u64().unwrap_or(0)), (*field).to_owned(), (*means).to_owned()]
    })
    .collect();
    out.table(&["BYTES", "OF", ""], &[true, false, false], &rows)
}

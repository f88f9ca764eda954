//! `segfs gc`.

use std::path::Path;

use segfs::{
    console::{Outcome, Output, size},
    serve::space,
};
use serde_json::json;

use super::target::Target;

/// Lets go what no policy keeps, and cleans.
pub fn run(at: &Path, dry_run: bool, out: &mut Output) -> Outcome<()> {
    let target = Target::find(at, "there is nothing to collect")?;
    let request = json!({"request": "gc", "dry_run": dry_run});
    let done = target.run("collecting", out.json, &request, |store, told| space::gc(store, dry_run, told))?;
    if out.json {
        return out.value(&done);
    }
    let n = |field: &str| done[field].as_u64().unwrap_or(0);
    let verb = if dry_run { "would go" } else { "went" };
    out.line(&format!("{} versions {verb}, which held about {}", n("versions"), size(n("history_bytes"))))?;
    out.line(&format!("{} were dead already", size(n("dead_bytes"))))?;
    if !dry_run {
        out.line(&format!("{} given back, in {} segments", size(n("freed_bytes")), n("segments")))?;
    }
    Ok(())
}

//! `segfs scrub`.

use std::path::Path;

use segfs::{
    console::{DAMAGE, Failure, Outcome, Output, size},
    serve::scrub::{Scrub, Scrubber},
};
use serde_json::{Value, json};

use super::target::Target;

/// Bytes, with K, M or G.
pub fn rate(text: &str) -> Result<u64, String> {
    let unit = text.trim_end_matches(|c: char| c.is_ascii_digit());
    let number = &text[..text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len()];
    let times: u64 = match text.strip_prefix(number).unwrap_or(unit) {
        "" => 1,
        "K" | "k" => 1 << 10,
        "M" | "m" => 1 << 20,
        "G" | "g" => 1 << 30,
        _ => return Err("a number of bytes, such as 20M".into()),
    };
    let number: u64 = number.parse().map_err(|_| "a number of bytes, such as 20M".to_owned())?;
    number.checked_mul(times).filter(|n| *n > 0).ok_or_else(|| "a number of bytes above zero".into())
}

/// Reads everything, and says what is damaged.
pub fn run(at: &Path, rate: u64, anew: bool, out: &mut Output) -> Outcome<()> {
    let target = Target::find(at, "there is nothing to read")?;
    let request = json!({"request": "scrub", "rate": rate, "anew": anew});
    let how = Scrub { rate, anew };
    let done = target.run("reading", out.json, &request, |store, told| {
        let what = "the journal of what was read can't be opened";
        let scrubber = Scrubber::new(store.path(), None).map_err(|e| Failure::system(what, &e))?;
        scrubber.by_hand(store, how, told)
    })?;
    let damages = done["damages"].as_array().cloned().unwrap_or_default();
    if out.json {
        out.value(&done)?;
    } else {
        for d in &damages {
            tell(d, out)?;
        }
        let (segments, bytes) = (done["segments"].as_u64().unwrap_or(0), done["bytes"].as_u64().unwrap_or(0));
        out.line(&format!("read {segments} segments, {}; {} damages", size(bytes), damages.len()))?;
        if done["complete"] == false {
            out.line("broken off; the next one goes on from there")?;
        }
    }
    if damages.is_empty() {
        return Ok(());
    }
    let files: std::collections::BTreeSet<&str> = damages
        .iter()
        .flat_map(|d| d["files"].as_array().into_iter().flatten())
        .filter_map(|f| f["path"].as_str())
        .collect();
    let why = format!("{} places in the log, {} files", damages.len(), files.len());
    let next = "restore the files that are named from an undamaged version or a copy; all is in scrub.journal of the store";
    Err(Failure::new(DAMAGE, "the store is damaged", why, next))
}

fn tell(d: &Value, out: &mut Output) -> Outcome<()> {
    out.line(&format!(
        "damaged     {} in segment {} at {}: {}",
        d["what"].as_str().unwrap_or("record"),
        d["segment"],
        d["offset"],
        d["damage"].as_str().unwrap_or_default()
    ))?;
    for f in d["files"].as_array().into_iter().flatten() {
        let versions: Vec<_> =
            f["versions"].as_array().into_iter().flatten().map(|v| format!("@{}", v["ordinal"])).collect();
        let present = if f["present"] == true { "the present" } else { "not the present" };
        out.line(&format!(
            "  {} from {}, {} bytes: {present}, versions {}",
            f["path"].as_str().unwrap_or_default().escape_debug(),
            f["offset"],
            f["length"],
            versions.join(" ")
        ))?;
    }
    Ok(())
}

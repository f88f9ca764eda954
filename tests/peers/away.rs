//! A peer that was away while the log was cleaned.

use std::{fs, process::Output, time::Duration};

use super::mounts::{agree, json, of, pair, within};
use crate::mount::{Mounted, segfs};

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed << 32 | 1;
    std::iter::repeat_with(|| {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (x >> 33) as u8
    })
    .take(len)
    .collect()
}

fn fine(done: &Output) {
    assert!(done.status.success(), "{done:?}");
}

fn events(m: &Mounted) -> String {
    fs::read_to_string(m.store().join("events.jsonl")).unwrap()
}

#[test]
fn what_the_cleaner_took_from_the_log_comes_from_the_index() {
    let a = Mounted::with(&["--listen", "127.0.0.1:0"]);
    let config = a.store().join("config.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("for_peers = \"1G\"", "for_peers = \"0\"")).unwrap();
    fine(&segfs(&["retain", "reload", a.dir().to_str().unwrap()]));
    let mut b = Mounted::new();
    fs::write(a.path("before"), "1").unwrap();
    pair(&a, &b);
    within(20, "what was there", || b.path("before").exists());
    agree(&a, &b);
    b.unmount();
    // While the other one is away, the log grows by segments that are all but dead, and the cleaner gives them back.
    fine(&segfs(&["retain", "set", a.path("scratch").to_str().unwrap(), "--keep", "never"]));
    fs::create_dir(a.path("scratch")).unwrap();
    fs::create_dir(a.path("kept")).unwrap();
    for n in 0..200_u64 {
        fs::write(a.path(&format!("kept/f{n}")), noise(n, 3000)).unwrap();
        fs::write(a.path(&format!("kept/f{n}")), noise(n + 1000, 2000 + n as usize)).unwrap();
    }
    fs::remove_file(a.path("kept/f7")).unwrap();
    fs::rename(a.path("kept/f8"), a.path("kept/moved")).unwrap();
    fs::write(a.path("before"), "2").unwrap();
    for n in 0..8 {
        fs::write(a.path("scratch/large"), noise(n, 24 << 20)).unwrap();
    }
    let before: u64 =
        json(&of(&a, &["replicate", "status"]))["rules"][0]["operations_pending"].as_u64().unwrap();
    assert!(before > 600, "{before}");
    let done = segfs(&["--json", "gc", a.dir().to_str().unwrap()]);
    assert!(json(&done)["segments"].as_u64().unwrap() > 1, "{done:?}");
    assert!(!events(&a).contains("told what the index says"));
    // Changes go on while it is told.
    b.mount(&[]);
    for n in 0..20 {
        fs::write(a.path(&format!("kept/later{n}")), "a").unwrap();
        fs::write(b.path(&format!("from b {n}")), "b").unwrap();
        std::thread::sleep(Duration::from_millis(10));
    }
    agree(&a, &b);
    assert!(events(&a).contains("told what the index says"), "{}", events(&a));
    assert_eq!(fs::read(b.path("kept/f9")).unwrap(), noise(1009, 2009));
}

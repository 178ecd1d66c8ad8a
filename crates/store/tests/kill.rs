//! A process that commits without pause is killed, again and again: each store that it leaves
//! opens, holds all that was acknowledged, and no half of a commit.
#![allow(clippy::print_stdout, reason = "acknowledgements go to the parent by stdout")]

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
};
use store::{Change, Store, Table};

const LIVES: u64 = 12;

fn main() {
    match std::env::args().nth(1) {
        Some(dir) if dir.starts_with("commit:") => commit_for_ever(Path::new(&dir["commit:".len()..])),
        Some(_) | None => a_killed_store_holds_what_it_acknowledged(),
    }
}

/// The child: commit `n` writes the same number to two tables, then says so.
fn commit_for_ever(file: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let store = Store::open(file).expect("opens");
        let mut n = latest(&store);
        loop {
            n += 1;
            let bytes = n.to_string().into_bytes();
            let both = [Table::PODS, Table::CONTAINERS].map(|t| Change::put(t, "n", bytes.clone()));
            store.commit(both.to_vec()).await.expect("commits");
            let mut out = std::io::stdout();
            writeln!(out, "{n}").expect("says");
            out.flush().expect("says");
        }
    });
}

fn latest(store: &Store) -> u64 {
    let [pod, container] =
        [Table::PODS, Table::CONTAINERS].map(|table| store.get(table, "n").expect("reads"));
    assert_eq!(pod, container, "half of a commit");
    pod.map_or(0, |bytes| String::from_utf8(bytes).expect("text").parse().expect("a number"))
}

fn a_killed_store_holds_what_it_acknowledged() {
    let dir = std::env::temp_dir().join(format!("peapod-store-kill-{}", std::process::id()));
    std::fs::create_dir(&dir).expect("a new directory");
    let file = dir.join("meta.redb");
    for life in 1..=LIVES {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .arg(format!("commit:{}", file.display()))
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let mut said = BufReader::new(child.stdout.take().expect("piped")).lines();
        for _ in 0..life * 5 {
            said.next().expect("a line").expect("a line");
        }
        child.kill().expect("SIGKILL");
        let last = said.map_while(Result::ok).filter(|line| !line.is_empty()).last();
        child.wait().expect("reaped");
        let store = Store::open(&file).expect("opens after a kill");
        let kept = latest(&store);
        let acknowledged: u64 = last.map_or(0, |line| line.parse().expect("a number"));
        assert!(kept >= acknowledged.max(life * 5), "{acknowledged} was acknowledged, {kept} is there");
    }
    std::fs::remove_file(&file).expect("removed");
    std::fs::remove_dir(&dir).expect("removed");
}

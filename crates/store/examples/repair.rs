//! What redb's quick-repair costs a commit, and what it saves when the store is opened after
//! `kill -9`: the figures behind the choice in the head of `lib.rs`.
//!
//! `cargo run --release -p store --example repair`
#![allow(clippy::print_stdout, reason = "it prints a table")]
#![allow(missing_docs)]

use redb::{Builder, Database, TableDefinition};
use std::{path::Path, process::Command, time::Instant};

const RECORDS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("records");
const COMMITS: u64 = 300;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    match args.get(1).map(String::as_str) {
        Some(file) => fill(Path::new(file), args[2].parse()?, args[3] == "quick"),
        None => measure(),
    }
}

/// The child: fills the store, times single commits, and dies without closing it.
fn fill(file: &Path, records: u64, quick: bool) -> Result<(), Box<dyn std::error::Error>> {
    let db = open(file)?;
    let value = vec![7; 4096];
    let write = db.begin_write()?;
    for key in 0..records {
        write.open_table(RECORDS)?.insert(key, value.as_slice())?;
    }
    write.commit()?;
    let mut times = Vec::new();
    for n in 0..COMMITS {
        let start = Instant::now();
        let mut write = db.begin_write()?;
        write.set_quick_repair(quick);
        write.open_table(RECORDS)?.insert(n * 7919 % records, value.as_slice())?;
        write.commit()?;
        times.push(start.elapsed());
    }
    times.sort();
    println!("{}", times[times.len() / 2].as_micros());
    std::process::abort()
}

fn measure() -> Result<(), Box<dyn std::error::Error>> {
    println!("{:>8} {:>6} {:>12} {:>12}", "records", "mode", "commit us", "open us");
    let file = std::env::temp_dir().join(format!("peapod-repair-{}", std::process::id()));
    for records in [100_u64, 1000, 10_000] {
        for mode in ["full", "quick"] {
            let child = Command::new(std::env::current_exe()?)
                .arg(&file)
                .args([&records.to_string(), mode])
                .output()?;
            let start = Instant::now();
            drop(open(&file)?);
            let opened = start.elapsed().as_micros();
            let commit = String::from_utf8(child.stdout)?;
            println!("{records:>8} {mode:>6} {:>12} {opened:>12}", commit.trim());
            std::fs::remove_file(&file)?;
        }
    }
    Ok(())
}

fn open(file: &Path) -> Result<Database, redb::DatabaseError> {
    let mut builder = Builder::new();
    builder.set_cache_size(4 << 20);
    builder.create(file)
}

//! Pulls an image several times into a fresh root and tells how long it took, to measure by.
//!
//! `cargo run --release -p image --example pull -- ROOT REFERENCE [TIMES]`, as root; ROOT must not exist.

#![allow(clippy::print_stdout, reason = "it is a program that prints")]

use image::{Images, Patience, Setup, Unpacker};
use std::{path::PathBuf, process::ExitCode, time::Instant};
use store::Store;
use types::ImageRef;

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("unpack-layer") {
        return image::unpack_child_main();
    }
    let mut args = std::env::args().skip(1);
    let (Some(root), Some(name)) = (args.next(), args.next()) else {
        println!("pull ROOT REFERENCE [TIMES]");
        return ExitCode::FAILURE;
    };
    let times = args.next().and_then(|text| text.parse().ok()).unwrap_or(5);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(measure(PathBuf::from(root), &name, times));
    ExitCode::SUCCESS
}

async fn measure(root: PathBuf, name: &str, times: u32) {
    std::fs::create_dir(&root).expect("a fresh root");
    let store = Store::open(&root.join("meta.redb")).expect("a store");
    let setup = Setup {
        root: root.clone(),
        hosts_dir: None,
        unpacker: Unpacker::this_program(),
        patience: Patience::default(),
        points: image::Points::default(),
    };
    let images = Images::open(store, setup).await.expect("images");
    let name = ImageRef::parse(name).expect("a reference");
    for _ in 0..times {
        let began = Instant::now();
        let id = images.pull(&name, None).done().await.expect("pulled");
        let taken = began.elapsed();
        let info = images.fs_info();
        println!("{taken:?} {} MB {} inodes", info.used_bytes / 1_000_000, info.inodes_used);
        images.remove(id.as_str()).await.expect("removed");
        images.settled().await;
    }
    drop(images);
    sys::tree::remove_path(&root).expect("the root goes");
}

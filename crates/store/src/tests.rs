use crate::*;
use redb::{StorageBackend, backends::InMemoryBackend};
use std::{
    path::PathBuf,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

/// A directory of this test alone, removed with it.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("peapod-store-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).expect("a new directory");
        Dir(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("meta.redb")
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.file());
        let _ = std::fs::remove_dir(&self.0);
    }
}

fn put(key: &str, value: &str) -> Change {
    Change::put(Table::PODS, key, value.as_bytes().to_vec())
}

#[tokio::test]
async fn what_was_committed_is_there_after_opening_anew() {
    let dir = Dir::new();
    let store = Store::open(&dir.file()).expect("opens");
    store.commit(vec![put("a", "1"), put("b", "2"), put("c", "3")]).await.expect("commits");
    store.commit(vec![put("a", "4"), Change::remove(Table::PODS, "b")]).await.expect("commits");
    store.commit(vec![Change::remove(Table::IMAGES, "absent")]).await.expect("commits");
    drop(store);
    let store = Store::open(&dir.file()).expect("opens");
    let records = store.scan(Table::PODS).expect("reads");
    assert_eq!(records, [("a".to_owned(), b"4".to_vec()), ("c".to_owned(), b"3".to_vec())]);
    assert_eq!(store.get(Table::PODS, "c").expect("reads"), Some(b"3".to_vec()));
    assert_eq!(store.get(Table::PODS, "b").expect("reads"), None);
    assert_eq!(store.scan(Table::LAYERS).expect("reads"), []);
}

#[tokio::test]
async fn a_commit_whose_caller_left_is_made_and_in_order() {
    let dir = Dir::new();
    let store = Store::open(&dir.file()).expect("opens");
    for n in 0..50 {
        drop(store.commit(vec![put("a", &n.to_string())]));
    }
    store.commit(vec![put("b", "")]).await.expect("commits");
    assert_eq!(store.get(Table::PODS, "a").expect("reads"), Some(b"49".to_vec()));
}

#[tokio::test]
async fn a_second_opener_is_refused() {
    let dir = Dir::new();
    let _store = Store::open(&dir.file()).expect("opens");
    assert!(matches!(Store::open(&dir.file()), Err(OpenError::InUse { .. })));
}

#[tokio::test]
async fn a_newer_or_foreign_store_is_refused_and_an_older_one_is_read() {
    for (schema, fine) in [("0", true), ("1", true), ("2", false), ("4294967295", false), ("x", false)] {
        let dir = Dir::new();
        let store = Store::open(&dir.file()).expect("opens");
        let change = Change::put(Table::META, SCHEMA_KEY, schema.as_bytes().to_vec());
        store.commit(vec![change, put("a", "1")]).await.expect("commits");
        drop(store);
        if fine {
            let store = Store::open(&dir.file()).expect("opens");
            assert_eq!(store.get(Table::PODS, "a").expect("reads"), Some(b"1".to_vec()));
            assert_eq!(store.get(Table::META, SCHEMA_KEY).expect("reads"), Some(b"1".to_vec()));
            continue;
        }
        for _again in 0..2 {
            let error = Store::open(&dir.file()).expect_err("refused");
            assert!(
                matches!(error, OpenError::Newer { .. } | OpenError::Foreign { .. }),
                "{schema}: {error}"
            );
        }
    }
}

#[tokio::test]
async fn a_file_that_is_no_store_is_refused_and_left_as_it_was() {
    let dir = Dir::new();
    let text = b"not a store".repeat(1000);
    std::io::Write::write_all(&mut std::fs::File::create(dir.file()).expect("file"), &text).expect("writes");
    assert!(matches!(Store::open(&dir.file()), Err(OpenError::Io { .. })));
    assert_eq!(std::fs::read(dir.file()).expect("reads"), text);
}

#[tokio::test]
async fn records_out_of_bounds_are_refused_and_harm_no_other() {
    let dir = Dir::new();
    let store = Store::open(&dir.file()).expect("opens");
    for bad in [put("", "x"), put(&"k".repeat(MAX_KEY + 1), "x")] {
        let error = store.commit(vec![put("fine", "x"), bad]).await.expect_err("refused");
        assert!(matches!(error, CommitError::OutOfBounds { .. }), "{error}");
    }
    let huge = Change::put(Table::PODS, "huge", vec![0; MAX_VALUE + 1]);
    assert!(matches!(store.commit(vec![huge]).await, Err(CommitError::OutOfBounds { .. })));
    assert_eq!(store.scan(Table::PODS).expect("reads"), []);
    store.commit(vec![put(&"k".repeat(MAX_KEY), "x")]).await.expect("commits");
    assert!(store.failure().is_none());
}

/// A disk whose syncs can be made to fail, and then to succeed again, as a real one's do.
#[derive(Debug)]
struct BadDisk {
    inner: InMemoryBackend,
    broken: Arc<AtomicBool>,
    syncs: Arc<AtomicU64>,
}

impl StorageBackend for BadDisk {
    fn len(&self) -> Result<u64, std::io::Error> {
        self.inner.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), std::io::Error> {
        self.inner.read(offset, out)
    }
    fn set_len(&self, len: u64) -> Result<(), std::io::Error> {
        self.inner.set_len(len)
    }
    fn sync_data(&self) -> Result<(), std::io::Error> {
        self.syncs.fetch_add(1, Ordering::SeqCst);
        if self.broken.load(Ordering::SeqCst) {
            return Err(std::io::Error::from_raw_os_error(5)); // EIO
        }
        self.inner.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), std::io::Error> {
        self.inner.write(offset, data)
    }
}

fn on_bad_disk() -> (Store, Arc<AtomicBool>, Arc<AtomicU64>) {
    let (broken, syncs) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let disk =
        BadDisk { inner: InMemoryBackend::new(), broken: Arc::clone(&broken), syncs: Arc::clone(&syncs) };
    let db = Builder::new().create_with_backend(disk);
    (Store::opened(db, "memory".to_owned()).expect("opens"), broken, syncs)
}

#[tokio::test]
async fn a_failed_sync_is_final_also_when_the_disk_recovers() {
    let (store, broken, _) = on_bad_disk();
    store.commit(vec![put("a", "1")]).await.expect("commits");
    broken.store(true, Ordering::SeqCst);
    let first = store.commit(vec![put("b", "2")]).await.expect_err("fails");
    broken.store(false, Ordering::SeqCst);
    let later = store.commit(vec![put("c", "3")]).await.expect_err("still fails");
    let (CommitError::Failed(first), CommitError::Failed(later)) = (first, later) else {
        panic!("not the disk's error")
    };
    assert!(Arc::ptr_eq(&first, &later), "{first} is not {later}");
    assert!(store.failure().is_some());
    assert_eq!(store.get(Table::PODS, "c").ok().flatten(), None);
}

#[tokio::test]
async fn commits_that_wait_together_share_their_syncs() {
    let (store, _, syncs) = on_bad_disk();
    let before = syncs.load(Ordering::SeqCst);
    store.commit(vec![put("one", "1")]).await.expect("commits");
    let each = syncs.load(Ordering::SeqCst) - before;
    // The writer takes whatever is queued; all but the first few are queued while it works.
    let commits: Vec<_> = (0..1000).map(|n| store.commit(vec![put(&n.to_string(), "x")])).collect();
    for commit in commits {
        commit.await.expect("commits");
    }
    let all = syncs.load(Ordering::SeqCst) - before - each;
    assert!(all < 500 * each, "{all} syncs for 1000 commits, {each} for one");
    assert_eq!(store.scan(Table::PODS).expect("reads").len(), 1001);
}

//! Archives made by an independent writer, and broken ones.

use super::*;

fn header(name: &str, kind: tar::EntryType, size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_path(name).expect("short");
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(1);
    header.set_gid(2);
    header.set_mtime(3);
    header.set_cksum();
    header
}

fn one(name: &str, content: &[u8]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    builder.append(&header(name, tar::EntryType::Regular, content.len() as u64), content).expect("memory");
    builder.into_inner().expect("memory")
}

fn read(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, TarError> {
    let mut reader = Reader::new(bytes);
    let mut all = Vec::new();
    while let Some(entry) = reader.next()? {
        let mut content = Vec::new();
        reader.content(|piece| {
            content.extend_from_slice(piece);
            Ok(())
        })?;
        all.push((entry, content));
    }
    Ok(all)
}

/// `LENGTH KEY=VALUE\n`
fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let body = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
    let mut length = body.len() + 1;
    while length != body.len() + length.to_string().len() {
        length = body.len() + length.to_string().len();
    }
    [length.to_string().as_bytes(), &body].concat()
}

fn extended(kind: tar::EntryType, records: &[u8], then: &[u8]) -> Vec<u8> {
    let mut bytes = header("PaxHeader", kind, records.len() as u64).as_bytes().to_vec();
    bytes.extend_from_slice(records);
    bytes.resize(bytes.len().div_ceil(BLOCK) * BLOCK, 0);
    bytes.extend_from_slice(then);
    bytes
}

#[test]
fn members_come_with_their_names_owners_and_content() {
    let mut builder = tar::Builder::new(Vec::new());
    let long = "long/".repeat(60) + "name";
    builder.append(&header("d/", tar::EntryType::Directory, 0), &b""[..]).expect("memory");
    builder.append(&header("d/f", tar::EntryType::Regular, 600), &[7_u8; 600][..]).expect("memory");
    let mut gnu = tar::Header::new_gnu();
    gnu.set_size(3);
    gnu.set_mode(0o4755);
    builder.append_data(&mut gnu, &long, &b"abc"[..]).expect("memory");
    let mut link = header("l", tar::EntryType::Symlink, 0);
    link.set_link_name("/target").expect("short");
    link.set_cksum();
    builder.append(&link, &b""[..]).expect("memory");
    let all = read(&builder.into_inner().expect("memory")).expect("good");
    let names: Vec<&[u8]> = all.iter().map(|(entry, _)| entry.name.as_slice()).collect();
    assert_eq!(names, [b"d/" as &[u8], b"d/f", long.as_bytes(), b"l"]);
    assert_eq!(all[0].0.kind, Kind::Directory);
    assert_eq!((all[1].0.uid, all[1].0.gid, all[1].0.mtime), (1, 2, (3, 0)));
    assert_eq!(all[1].1, [7; 600]);
    assert_eq!((all[2].0.mode, all[2].1.as_slice()), (0o4755, b"abc" as &[u8]));
    assert_eq!((all[3].0.kind, all[3].0.link.as_slice()), (Kind::Symlink, b"/target" as &[u8]));
}

#[test]
fn pax_records_override_the_header_and_its_size_decides_where_the_next_member_starts() {
    let smuggled = one("smuggled", b"x");
    let mut carrier = header("short", tar::EntryType::Regular, 0).as_bytes().to_vec();
    carrier.extend_from_slice(&smuggled[..1024]);
    let size = record("size", b"1024");
    let records = [
        record("path", "päth".as_bytes()),
        record("uid", b"70000"),
        record("mtime", b"-1.25"),
        record("SCHILY.xattr.user.k", b"a\0b"),
        size,
    ]
    .concat();
    let all = read(&extended(tar::EntryType::XHeader, &records, &carrier)).expect("good");
    assert_eq!(all.len(), 1, "the content was taken for a member");
    let (entry, content) = &all[0];
    assert_eq!(entry.name, "päth".as_bytes());
    assert_eq!((entry.uid, entry.gid, entry.mtime), (70000, 2, (-2, 750_000_000)));
    assert_eq!(entry.xattrs, [(b"user.k".to_vec(), b"a\0b".to_vec())]);
    assert_eq!(content, &smuggled[..1024]);
}

#[test]
fn global_records_change_nothing() {
    let all = read(&extended(tar::EntryType::XGlobalHeader, &record("path", b"other"), &one("f", b"1")));
    assert_eq!(all.expect("good")[0].0.name, b"f");
}

#[test]
fn broken_archives_are_refused() {
    let good = one("f", &[1; 600]);
    let mut checksum = good.clone();
    checksum[0] ^= 1;
    let mut hole = good.clone();
    hole.splice(1536.., [0; 512]);
    hole.extend_from_slice(&good);
    let mut sparse = good.clone();
    sparse[156] = b'S';
    let mut unknown = good.clone();
    unknown[156] = b'V';
    for block in [&mut sparse, &mut unknown] {
        let mut fixed = tar::Header::from_byte_slice(&block[..512]).clone();
        fixed.set_cksum();
        block[..512].copy_from_slice(fixed.as_bytes());
    }
    let pax = |records: &[u8]| extended(tar::EntryType::XHeader, records, &good);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("checksum", checksum),
        ("cut header", good[..100].to_vec()),
        ("cut content", good[..700].to_vec()),
        ("cut padding", good[..1200].to_vec()),
        ("one block of zeros", hole),
        ("sparse", sparse),
        ("unknown type", unknown),
        ("pax without a newline", pax(b"11 path=abcd")),
        ("pax of length 0", pax(b"0 a=b\n")),
        ("pax that is longer than its header", pax(b"99 path=a\n")),
        ("pax path with NUL", pax(&record("path", b"a\0b"))),
        ("pax size that is negative", pax(&record("size", b"-1"))),
        ("pax size above 2^63", pax(&record("size", b"9223372036854775808"))),
        ("pax sparse", pax(&record("GNU.sparse.map", b"0,1"))),
        ("pax mtime", pax(&record("mtime", b"1.2.3"))),
    ];
    for (name, bytes) in cases {
        assert!(read(&bytes).is_err(), "{name}");
    }
}

#[test]
fn extended_headers_above_a_mebibyte_are_refused_before_they_are_read() {
    for kind in [tar::EntryType::XHeader, tar::EntryType::XGlobalHeader, tar::EntryType::GNULongName] {
        let bytes = header("h", kind, 1 << 33).as_bytes().to_vec();
        assert!(matches!(read(&bytes), Err(TarError::ExtendedTooLarge(size)) if size == 1 << 33), "{kind:?}");
    }
}

#[test]
fn numbers_are_octal_or_base_256_and_never_cut_off() {
    let number = header::number;
    assert_eq!(number(b"0000644\0").expect("octal"), 0o644);
    assert_eq!(number(b"  12 \0\0\0").expect("octal"), 0o12);
    assert_eq!(number(b"\0\0\0\0\0\0\0\0").expect("empty"), 0);
    assert_eq!(number(&[0x80, 0, 0, 1, 0, 0, 0, 0]).expect("base-256"), 1 << 32);
    assert_eq!(number(&[0xff; 12]).expect("base-256"), -1);
    let largest = [&[0x80, 0, 0, 0, 0x7f][..], &[0xff; 7]].concat();
    assert_eq!(number(&largest).expect("base-256"), i64::MAX);
    let above = [&[0x80, 0, 0, 0, 0x80][..], &[0; 7]].concat();
    for bad in [&above[..], b"0000648\0", b"-0000001", b"0x10\0\0\0\0", b"12 34\0\0\0"] {
        assert!(number(bad).is_err(), "{bad:?}");
    }
}

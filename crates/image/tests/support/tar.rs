//! Tar archives byte by byte, honest or not.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "each suite uses its part of this")]

/// A tar, member by member; names are taken as they are.
#[derive(Clone, Debug, Default)]
pub struct Tar(Vec<u8>);

impl Tar {
    pub fn new() -> Self {
        Self::default()
    }

    /// Any member: type flag, name, link, content; `change` may touch the header before its checksum.
    pub fn raw(
        mut self,
        flag: u8,
        name: &[u8],
        link: &[u8],
        content: &[u8],
        change: impl Fn(&mut [u8; 512]),
    ) -> Self {
        let mut block = [0_u8; 512];
        block[..name.len().min(100)].copy_from_slice(&name[..name.len().min(100)]);
        let mode: &[u8] = if flag == b'5' { b"0000755\0" } else { b"0000644\0" };
        block[100..108].copy_from_slice(mode);
        block[108..116].copy_from_slice(b"0000000\0");
        block[116..124].copy_from_slice(b"0000000\0");
        block[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
        block[136..148].copy_from_slice(b"00000000012\0");
        block[156] = flag;
        block[157..157 + link.len().min(100)].copy_from_slice(&link[..link.len().min(100)]);
        block[257..265].copy_from_slice(b"ustar\x0000");
        change(&mut block);
        block[148..156].copy_from_slice(b"        ");
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&block);
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().div_ceil(512) * 512, 0);
        self
    }

    pub fn file(self, name: &str, content: &str) -> Self {
        self.raw(b'0', name.as_bytes(), b"", content.as_bytes(), |_| ())
    }

    pub fn dir(self, name: &str) -> Self {
        self.raw(b'5', name.as_bytes(), b"", b"", |_| ())
    }

    pub fn symlink(self, name: &str, target: &str) -> Self {
        self.raw(b'2', name.as_bytes(), target.as_bytes(), b"", |_| ())
    }

    pub fn hard_link(self, name: &str, target: &str) -> Self {
        self.raw(b'1', name.as_bytes(), target.as_bytes(), b"", |_| ())
    }

    pub fn mode(self, flag: u8, name: &str, mode: u32) -> Self {
        self.raw(flag, name.as_bytes(), b"", b"", |block| {
            block[100..108].copy_from_slice(format!("{mode:07o}\0").as_bytes());
        })
    }

    /// A device node; the numbers are written as octal text, or base-256 when they do not fit.
    pub fn device(self, flag: u8, name: &str, major: i64, minor: i64) -> Self {
        let number = |value: i64| -> [u8; 8] {
            if (0..=0o7_777_777).contains(&value) {
                format!("{value:07o}\0").into_bytes().try_into().expect("eight")
            } else {
                let mut bytes = value.to_be_bytes();
                bytes[0] = if value < 0 { 0xff } else { 0x80 | bytes[0] };
                bytes
            }
        };
        self.raw(flag, name.as_bytes(), b"", b"", move |block| {
            block[329..337].copy_from_slice(&number(major));
            block[337..345].copy_from_slice(&number(minor));
        })
    }

    /// PAX records for the member that follows.
    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut content = Vec::new();
        for (key, value) in records {
            let body = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
            let mut length = body.len() + 1;
            while length != body.len() + length.to_string().len() {
                length = body.len() + length.to_string().len();
            }
            content.extend_from_slice(length.to_string().as_bytes());
            content.extend_from_slice(&body);
        }
        self.raw(b'x', b"PaxHeaders/x", b"", &content, |_| ())
    }

    /// An empty member with an owner.
    pub fn owned(self, flag: u8, name: &str, mode: u32, uid: u32, gid: u32) -> Self {
        self.raw(flag, name.as_bytes(), b"", b"", |block| {
            block[100..108].copy_from_slice(format!("{mode:07o}\0").as_bytes());
            block[108..116].copy_from_slice(format!("{uid:07o}\0").as_bytes());
            block[116..124].copy_from_slice(format!("{gid:07o}\0").as_bytes());
        })
    }

    /// The whole archive.
    pub fn end(&self) -> Vec<u8> {
        let mut bytes = self.0.clone();
        bytes.resize(bytes.len() + 1024, 0);
        bytes
    }
}

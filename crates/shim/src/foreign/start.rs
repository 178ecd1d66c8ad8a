//! How a foreign shim is started (containerd:core/runtime/v2/shim.go, pkg/shim).

use super::{CALL, Foreign, PATH, QUICK, link::Live, name_of};
use crate::poll::{Interest, Poll, Source};
use crate::wire::Refusal;
use containerd_shim_protos::api;
use prost::Message as _;
use std::fs::{DirBuilder, File};
use std::io::{self, Seek as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use sys::rustix::fd::OwnedFd;
use sys::rustix::fs::{CWD, Mode, OFlags, mkfifoat, open};
use sys::rustix::io::Errno;
use types::handler::{BootstrapParams, BootstrapResult, NAMESPACE, shim_directory};

/// So much of what `start` prints is read.
const MOST_SAID: u64 = 64 << 10;

impl Foreign {
    /// Starts the shim and connects to it.
    pub(super) fn start(&self, epoll: &Poll) -> Result<(), Refusal> {
        let base = shim_directory(&self.directory);
        let bundle = base.join(&self.pod);
        let step = |doing: &'static str| move |e: io::Error| self.failed(doing, e);
        DirBuilder::new().recursive(true).mode(0o700).create(&bundle).map_err(step("make its directory"))?;
        let mut config = File::create(bundle.join("config.json")).map_err(step("write its bundle"))?;
        config.write_all(b"{\"ociVersion\":\"1.2.0\"}").map_err(step("write its bundle"))?;
        let log = fifo(&bundle.join("log")).map_err(step("make its log"))?;
        // unix(7) has room for 107 bytes: its directory goes by the number of a descriptor.
        let place = open(&base, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let place = place.map_err(io::Error::from).map_err(step("open its directory"))?;
        let params = BootstrapParams {
            instance_id: self.pod.clone(),
            namespace: NAMESPACE.to_owned(),
            containerd_version: env!("CARGO_PKG_VERSION").to_owned(),
            socket_dir: Some(name_of(&place)),
        };
        let said = self.bootstrap(&bundle, &params.encode_to_vec())?;
        let result = understood(&said).map_err(|why| self.failed("start the handler's shim", why))?;
        let service = match (result.protocol.as_str(), result.version) {
            ("ttrpc" | "", 3) => "containerd.task.v3.Task",
            ("ttrpc" | "", 0..=2) => "containerd.task.v2.Task",
            (protocol, version) => {
                let text =
                    format!("it speaks {protocol} of version {version}, and ttrpc of 2 or 3 is understood");
                return Err(self.failed("start the handler's shim", text));
            }
        };
        let path = result.address.strip_prefix("unix://").ok_or_else(|| {
            self.failed(
                "start the handler's shim",
                format!("its address {:?} is none of unix://", result.address),
            )
        })?;
        let socket = UnixStream::connect(path).map_err(step("connect to it"))?;
        socket.set_nonblocking(true).map_err(step("connect to it"))?;
        epoll.add(&socket, Source::Handler, Interest::READ).map_err(step("watch it"))?;
        epoll.add(&log, Source::HandlerLog, Interest::READ).map_err(step("watch its log"))?;
        *self.live.borrow_mut() = Some(Live {
            socket,
            pid: 0,
            process: None,
            log,
            logged: 0,
            _place: place,
            service,
            input: Vec::new(),
            stream: 0,
            waits: Vec::new(),
            ended: Vec::new(),
            broken: false,
        });
        let request = api::ConnectRequest { id: self.pod.clone(), ..api::ConnectRequest::default() };
        let connected = self.call::<api::ConnectResponse>("Connect", &request, QUICK);
        let found = connected.and_then(|connected| Ok((self.process(connected.shim_pid)?, connected)));
        let ((_, process), connected) = match found {
            Ok(found) => found,
            Err(refusal) => {
                // The next container gets another one; the daemon ends what is left with the pod.
                self.give_up(epoll);
                return Err(refusal);
            }
        };
        if let Some(live) = self.live.borrow_mut().as_mut() {
            live.pid = connected.shim_pid;
            live.process = Some(process).filter(|process| sys::pidfd::is_child(process) == Ok(true));
        }
        Ok(())
    }

    /// Runs `start`, and gives what it prints.
    fn bootstrap(&self, bundle: &Path, params: &[u8]) -> Result<Vec<u8>, Refusal> {
        let step = |e: io::Error| self.failed("start the handler's shim", e);
        let memory = |most| sys::program::memory(most).map_err(step);
        let (mut input, mut out, mut err) =
            (memory(params.len() as u64)?, memory(MOST_SAID)?, memory(MOST_SAID)?);
        input.write_all(params).and_then(|()| input.rewind()).map_err(step)?;
        let mut command = Command::new(&self.program);
        command.args([
            "-namespace",
            NAMESPACE,
            "-address",
            "",
            "-publish-binary",
            "",
            "-id",
            &self.pod,
            "start",
        ]);
        command.env_clear().env("PATH", PATH).env("GOMAXPROCS", "2").env("MAX_SHIM_VERSION", "3");
        command.env("TTRPC_ADDRESS", "").env("GRPC_ADDRESS", "").env("NAMESPACE", NAMESPACE);
        command.current_dir(bundle);
        command.stdin(input).stdout(out.try_clone().map_err(step)?).stderr(err.try_clone().map_err(step)?);
        match sys::program::run_within(command, CALL).map_err(step)? {
            Some(status) if status.success() => sys::program::written(&mut out).map_err(step),
            Some(status) => {
                let said = sys::program::written(&mut err).unwrap_or_default();
                let said = String::from_utf8_lossy(&said);
                Err(self.failed("start the handler's shim", format!("{status}: {}", said.trim())))
            }
            None => {
                let text = format!("it took longer than {} s and was killed", CALL.as_secs());
                Err(self.failed("start the handler's shim", text))
            }
        }
    }
}

/// What `start` printed: a message since containerd 2.3, before that JSON or a bare address
/// (containerd:core/runtime/v2/shim.go).
fn understood(said: &[u8]) -> Result<BootstrapResult, String> {
    let text = String::from_utf8_lossy(said);
    let text = text.trim();
    if text.starts_with('{') {
        let value: serde_json::Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
        let word = |key: &str| value.get(key).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
        let version = value.get("version").and_then(serde_json::Value::as_i64).unwrap_or_default();
        let version = i32::try_from(version).map_err(|e| e.to_string())?;
        return Ok(BootstrapResult { version, address: word("address"), protocol: word("protocol") });
    }
    if text.starts_with("unix://") {
        let address = text.to_owned();
        return Ok(BootstrapResult { version: 2, address, protocol: "ttrpc".to_owned() });
    }
    match BootstrapResult::decode(said) {
        Ok(result) if !result.address.is_empty() => Ok(result),
        Ok(_) => Err("it printed no address".to_owned()),
        Err(e) => Err(format!("it printed no address: {e}")),
    }
}

/// A FIFO that is open at both ends, so that neither is waited for.
fn fifo(path: &Path) -> io::Result<OwnedFd> {
    match mkfifoat(CWD, path, Mode::from_raw_mode(0o600)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(e) => return Err(e.into()),
    }
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(open(path, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_start_prints_is_understood_in_all_three_ways() {
        let message =
            BootstrapResult { version: 3, address: "unix:///a".to_owned(), protocol: "ttrpc".to_owned() };
        assert_eq!(understood(&message.encode_to_vec()), Ok(message));
        let json = br#"{"version":3,"address":"unix:///b","protocol":"ttrpc"}"#;
        let json = understood(json).expect("JSON");
        assert_eq!((json.version, json.address.as_str()), (3, "unix:///b"));
        let bare = understood(b"unix:///c\n").expect("an address");
        assert_eq!((bare.version, bare.address.as_str(), bare.protocol.as_str()), (2, "unix:///c", "ttrpc"));
        for bad in [&b""[..], b"{", b"nonsense", &[0xff; 100]] {
            assert!(understood(bad).is_err(), "{bad:?}");
        }
    }
}

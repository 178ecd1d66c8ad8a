//! containerd-shim-peapod-v1: one process per pod, the parent of its containers.
//!
//! One thread, one loop over descriptors ([`mod@serve`]), no memory that is not needed while the pod is
//! idle. It serves containerd's Task and Sandbox API and a service of our own over ttrpc on a socket
//! that it gets as its standard input, listening: whoever starts it connects at once. That is our daemon,
//! or `start` of this program, which a stock containerd executes ([`mod@containerd`]).

#![forbid(unsafe_code)]

mod attach;
mod capture;
mod connection;
mod container;
mod containerd;
mod exec;
mod exitfile;
mod fifo;
mod foreign;
mod framing;
mod hold;
mod input;
mod launch;
mod logfile;
mod oci;
mod oom;
mod output;
mod pause;
mod pod;
mod poll;
mod publish;
mod reaper;
mod sandbox;
mod serve;
mod session;
mod spill;
mod stats;
mod stdio;
mod task;
mod terminal;
#[cfg(test)]
mod testing;
mod wire;

use containerd::Origin;
use serve::Options;
use std::ffi::OsString;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use types::handler::Handler;
use types::shim::{LOG_LINE, LOG_LINE_DEFAULT};

/// Exit code of a command line that is not understood.
const USAGE: u8 = 2;

/// What `--version` says.
const VERSION: &str = concat!("containerd-shim-peapod-v1 ", env!("CARGO_PKG_VERSION"), "\n");

/// Name of the OCI runtime's command line, as a command and as the program's own name.
const RUNC: &str = "runc";

const HELP: &str = "\
containerd-shim-peapod-v1: the parent of one pod's containers

  serve --id POD --dir DIRECTORY [--seccomp-cache DIRECTORY] [--pause] [--userns FILE] [--log-line BYTES]
        [--oci PROGRAM | --shim PROGRAM [--shim-runtime PROGRAM]]
        serve ttrpc on the listening socket that is the standard input;
        --pause holds one PID namespace for all containers, in the user namespace of --userns;
        --log-line is the longest piece of a line in one record of a log (16384);
        --oci PROGRAM makes the containers by the command line of another OCI runtime (runc, crun, youki);
        --shim PROGRAM has a shim of containerd's runtime v2 make them, by the OCI runtime of --shim-runtime
        --containerd-namespace NAME --socket PATH [--events PATH]: for the containerd of that name,
        which gets events at its ttrpc socket; the shim removes its own socket at its end
  -namespace NAME -id ID -address ADDRESS [-bundle DIRECTORY] [-debug] start | delete
        as containerd executes a shim (runtime_type io.containerd.peapod.v1): start one for the pod of
        the container whose bundle is the working directory, or end what is left of the container
  -info
        what the runtime can do, for containerd
  hold  keep a scope of systemd, from a byte on the standard input on
  runc ...
        an OCI runtime's command line: create, start, state, kill, delete, exec, features
  --version, -v
  --help, -h

The daemon starts it, or a stock containerd: see docs/containerd.md.
";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    if Path::new(&name).file_name() == Some(RUNC.as_ref()) {
        return runner::front::main(std::iter::once(name).chain(arguments).collect());
    }
    let command = arguments.next().unwrap_or_default();
    match command.to_str() {
        Some("serve") => match options(Path::new(&name), arguments) {
            Ok(options) => serve(options),
            Err(complaint) => say(&format!("{complaint}\n"), ExitCode::from(USAGE)),
        },
        Some("hold") => match hold::hold() {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => say(&format!("hold: {e}\n"), ExitCode::FAILURE),
        },
        // From here on it goes by that name, also when it executes itself anew.
        Some(RUNC) => runner::front::main(std::iter::once(command).chain(arguments).collect()),
        Some("--version" | "-v") => tell(VERSION),
        Some("--help" | "-h") => tell(HELP),
        Some(flag) if flag.starts_with('-') => {
            containerd::main(Path::new(&name), std::iter::once(command).chain(arguments))
        }
        Some(_) | None => {
            say(&format!("unknown command {}; see --help\n", command.display()), ExitCode::from(USAGE))
        }
    }
}

fn serve(options: Options) -> ExitCode {
    // A container must not find a way to overwrite this file. The daemon starts it sealed already.
    if let Err(e) = runner::seal::seal(std::env::args_os()) {
        return say(&format!("seal the program: {}\n", std::io::Error::from(e)), ExitCode::FAILURE);
    }
    match serve::serve(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => say(&format!("serve: {e}\n"), ExitCode::FAILURE),
    }
}

/// To standard output; whether anybody reads it is not our business.
fn tell(text: &str) -> ExitCode {
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

/// To standard error, with the exit code to end with.
fn say(text: &str, code: ExitCode) -> ExitCode {
    let _ = std::io::stderr().write_all(text.as_bytes());
    code
}

/// Reads the command line of `serve`.
fn options(program: &Path, mut arguments: impl Iterator<Item = OsString>) -> Result<Options, String> {
    let (mut id, mut directory, mut seccomp_cache, mut pause, mut userns) = (None, None, None, false, None);
    let mut log_line = LOG_LINE_DEFAULT;
    let (mut handler, mut shim, mut runtime) = (None, None, None);
    let (mut namespace, mut socket, mut events) = (None, None, None);
    while let Some(name) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{}: a value is missing", name.display()));
        match name.to_str() {
            Some("--id") => id = Some(value()?.into_string().map_err(|_| "--id: want UTF-8".to_owned())?),
            Some("--dir") => directory = Some(value()?.into()),
            Some("--seccomp-cache") => seccomp_cache = Some(value()?.into()),
            Some("--pause") => pause = true,
            Some("--userns") => userns = Some(value()?.into()),
            Some("--log-line") => {
                let bytes: Option<usize> = value()?.to_str().and_then(|text| text.parse().ok());
                let wrong = || format!("--log-line: want {} to {} bytes", LOG_LINE.start(), LOG_LINE.end());
                log_line = bytes.filter(|bytes| LOG_LINE.contains(bytes)).ok_or_else(wrong)?;
            }
            Some("--oci") => handler = Some(Handler::Oci { path: value()?.into() }),
            Some("--containerd-namespace") => {
                let text = value()?.into_string();
                namespace = Some(text.map_err(|_| "--containerd-namespace: want UTF-8".to_owned())?);
            }
            Some("--socket") => socket = Some(value()?.into()),
            Some("--events") => events = Some(value()?.into()),
            Some("--shim") => shim = Some(value()?.into()),
            Some("--shim-runtime") => runtime = Some(value()?.into()),
            Some(_) | None => return Err(format!("unknown option {}; see --help", name.display())),
        }
    }
    let origin = match (namespace, socket) {
        (Some(namespace), Some(socket)) => {
            Some(Origin { namespace, events, socket, program: program.to_owned() })
        }
        (None, None) if events.is_none() => None,
        (None, _) => return Err("--containerd-namespace is missing".to_owned()),
        (Some(_), None) => return Err("--socket is missing".to_owned()),
    };
    Ok(Options {
        id: id.ok_or("--id is missing")?,
        directory: directory.ok_or("--dir is missing")?,
        seccomp_cache,
        pause,
        userns,
        log_line,
        handler: handler.or(shim.map(|path| Handler::Shim { path, runtime })),
        origin,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Options, String> {
        options(Path::new("/shim"), words.iter().map(OsString::from))
    }

    #[test]
    fn serve_wants_an_id_and_a_directory_and_knows_its_options() {
        let fine =
            parse(&["--id", "a", "--dir", "/d", "--pause", "--userns", "/u", "--oci", "/usr/bin/runc"])
                .expect("fine");
        assert_eq!(
            fine,
            Options {
                id: "a".to_owned(),
                directory: "/d".into(),
                seccomp_cache: None,
                pause: true,
                userns: Some("/u".into()),
                log_line: 16 << 10,
                handler: Some(Handler::Oci { path: "/usr/bin/runc".into() }),
                origin: None,
            }
        );
        let shim =
            parse(&["--id", "a", "--dir", "/d", "--shim", "/s", "--shim-runtime", "/r"]).expect("fine");
        assert_eq!(shim.handler, Some(Handler::Shim { path: "/s".into(), runtime: Some("/r".into()) }));
        let line = |text: &str| parse(&["--id", "a", "--dir", "/d", "--log-line", text]);
        for (text, bytes) in [("256", 256), ("1048576", 1 << 20)] {
            assert_eq!(line(text).expect("fine").log_line, bytes);
        }
        for bad in ["255", "1048577", "", "-1", "16k"] {
            assert!(line(bad).is_err_and(|told| told.contains("--log-line")), "{bad}");
        }
        for bad in [&["--id", "a"][..], &["--dir", "/d"], &["--id"], &["--id", "a", "--dir", "/d", "--x"]] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_shim_of_containerds_knows_its_namespace_and_its_socket() {
        let with = |more: &[&str]| parse(&[&["--id", "a", "--dir", "/d"], more].concat());
        let origin = Origin {
            namespace: "n".to_owned(),
            events: Some("/e".into()),
            socket: "/s".into(),
            program: "/shim".into(),
        };
        let all = ["--containerd-namespace", "n", "--socket", "/s", "--events", "/e"];
        assert_eq!(with(&all).expect("fine").origin, Some(origin));
        assert!(with(&all[..4]).expect("fine").origin.expect("one").events.is_none());
        for (few, missing) in [
            (&all[..2], "--socket"),
            (&all[2..4], "--containerd-namespace"),
            (&all[4..], "--containerd-namespace"),
        ] {
            assert!(with(few).expect_err("refused").starts_with(missing), "{few:?}");
        }
    }
}

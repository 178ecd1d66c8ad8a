//! A program that a container cannot overwrite (CVE-2019-5736).
//!
//! A container whose entrypoint is `#!/proc/self/exe` makes the kernel execute the runtime's binary inside the
//! container; from there `/proc/PID/exe` leads back to the file of the host. So the runtime executes itself once
//! from a copy of its file's mount that is read-only and attached nowhere: the link then leads through that mount,
//! which nobody can find to make it writable. The pages stay shared with all other processes of the file.

use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStringExt;
use sys::{exec, rustix::io::Errno};

/// Executes this program anew from a read-only mount unless it is there already. `args`: all, the program's
/// name first. It returns when nothing is to be done, or with the error.
///
/// # Errors
/// Of the mount and of the exec. A caller goes on without only if it runs nothing untrusted.
pub fn seal(args: impl IntoIterator<Item = OsString>) -> Result<(), Errno> {
    if exec::own_program_is_read_only()? {
        return Ok(());
    }
    let file = exec::read_only_file(std::path::Path::new("/proc/self/exe"))?;
    let text = |value: OsString| CString::new(value.into_vec()).map_err(|_| Errno::INVAL);
    let argv = args.into_iter().map(text).collect::<Result<_, _>>()?;
    let env = std::env::vars_os().map(|(mut name, value)| {
        name.push("=");
        name.push(value);
        text(name)
    });
    let env = env.collect::<Result<_, _>>()?;
    Err(exec::execve_file(
        std::os::fd::AsFd::as_fd(&file),
        &exec::Strings::new(argv),
        &exec::Strings::new(env),
    ))
}

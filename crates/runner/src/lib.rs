//! OCI runtime specification in, confined process out.
//!
//! [`create()`] parses the specification into a plan, makes the cgroup, clones a child into new namespaces and
//! waits until it has confined itself; [`Created::start`] lets it execute its program. [`exec()`] puts a further
//! process into a container, [`delete`] ends and removes what is left. [`front`] is the same behind the command
//! line of runc.
//!
//! Only for callers with one thread: the child goes on in Rust after the clone, without an exec of its own. The
//! caller's binary should lie on a read-only mount ([`seal`]), since `#!/proc/self/exe` makes the container
//! execute it (CVE-2019-5736).
#![forbid(unsafe_code)]

mod channel;
mod create;
mod error;
mod exec;
mod failure;
pub mod front;
mod hooks;
mod init;
mod plan;
mod request;
pub mod seal;

pub use create::{create, delete};
pub use error::{RunnerError, StartError};
pub use exec::exec;
pub use hooks::HookError;
/// The version of the runtime specification that this runtime follows.
pub const SPEC_VERSION: &str = "1.2.1";

pub use request::{CreateRequest, Created, ExecError, ExecRequest, Execed, Gate, RootMount, Stdio};

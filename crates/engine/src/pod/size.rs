//! What the kubelet says of a pod's size (KEP-5419, in-place resize of a pod as a whole).

use serde::{Deserialize, Serialize};
use types::container::Resources;

/// The sums of a pod. The kubelet resizes the pod's cgroup by itself, so nothing is set from them;
/// they are kept for who asks what the pod was told to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodSize {
    /// Of the RuntimeClass.
    pub overhead: Option<Resources>,
    /// Of all containers.
    pub resources: Option<Resources>,
}

impl PodSize {
    /// This, with what is told anew.
    #[must_use]
    pub fn with(&self, told: PodSize) -> PodSize {
        PodSize {
            overhead: told.overhead.or_else(|| self.overhead.clone()),
            resources: told.resources.or_else(|| self.resources.clone()),
        }
    }
}

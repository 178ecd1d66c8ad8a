//! Points at which a test may end the process: after each durable write.

use std::{fmt, sync::Arc};

/// Is told the name of each point when it is passed.
#[derive(Clone, Default)]
pub struct Points(Option<Arc<dyn Fn(&'static str) + Send + Sync>>);

impl Points {
    /// `hook` is told each point's name.
    pub fn new(hook: impl Fn(&'static str) + Send + Sync + 'static) -> Points {
        Points(Some(Arc::new(hook)))
    }

    pub(crate) fn passed(&self, point: &'static str) {
        if let Some(hook) = &self.0 {
            hook(point);
        }
    }
}

impl fmt::Debug for Points {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Points" } else { "no points" })
    }
}

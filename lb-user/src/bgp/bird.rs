//! BIRD: an include file with static routes, and the control socket to have it loaded.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{Announcements, BgpError, Prefix, Speaker};

/// A BIRD 2 daemon whose `bird.conf` includes our file.
pub struct Bird {
    include: PathBuf,
    control: PathBuf,
}

impl Bird {
    /// Touches nothing yet.
    pub fn new(include: &Path, control: &Path) -> Self {
        Self { include: include.into(), control: control.into() }
    }
}

impl Speaker for Bird {
    async fn announce(&mut self, _want: &Announcements) -> Result<(), BgpError> {
        let _ = &self.include;
        Ok(())
    }

    async fn announced(&mut self) -> Result<BTreeSet<Prefix>, BgpError> {
        let _ = &self.control;
        Ok(BTreeSet::new())
    }
}

//! Editors at the same time: each change is made once, or its editor is told.

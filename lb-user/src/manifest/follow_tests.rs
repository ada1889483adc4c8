//! What is kept and what is told when the place holds something strange.

//! Codec and edits for CRIU image files: pure, no I/O.

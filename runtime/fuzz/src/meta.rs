//! The metadata archive, and what is done with the images in it.

use thaw_store::parsers;

use crate::{archive, images};

pub(crate) fn run(data: &[u8]) {
    let tar = archive::mend(data);
    let Ok(found) = parsers::images(&tar) else {
        return;
    };
    let bytes: usize = found.values().map(Vec::len).sum();
    assert!(
        bytes <= tar.len(),
        "{bytes} bytes of images in an archive of {}",
        tar.len()
    );
    for name in found.keys() {
        // Boot makes files of these names.
        assert!(
            !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\0']),
            "{name:?}"
        );
    }
    images::look_at(&found);
}

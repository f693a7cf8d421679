//! The image of a container whose layers Docker keeps by itself: containerd knows nothing of it.

use std::io;
use std::path::Path;

use oci_spec::image::ImageConfiguration;
use thaw_snapshot::{Digest, ImageFacts};

use super::{DOCUMENT_LIMIT, IdentifyError, chain_id, digest, parse};
use crate::docker::{self, Layers, Place};

/// The most that is read of a file that holds one name or digest.
const WORD_LIMIT: u64 = 200;

/// By Docker's own records. They must agree: the root filesystem at `place` has to be that of the container, and to
/// stand on the layers of the image.
pub(super) fn image_of(place: &Place, id: &str) -> Result<ImageFacts, IdentifyError> {
    let Layers::Docker { driver, layer } = &place.layers else {
        return Err(IdentifyError::NoImage);
    };
    let container = place.container(id).map_err(|source| IdentifyError::Docker {
        path: place.data_root.clone(),
        source,
    })?;
    let name = container.config.image;
    let store = place.data_root.join("image").join(driver);
    let config = digest(&container.image)?;
    let chain_id = chain_of(&store, &name, config)?;
    let mounted = store.join("layerdb/mounts").join(id);
    let moved = |found: String| IdentifyError::Moved {
        name: name.clone(),
        found,
        expected: chain_id,
    };
    let found = word(&mounted.join("mount-id"))?;
    if container.id != id || found != *layer {
        return Err(moved(found));
    }
    let parent = word(&mounted.join("parent"))?;
    if parent != chain_id.to_string() {
        return Err(moved(parent));
    }
    Ok(ImageFacts {
        // Docker keeps no manifest; a name of its means the config itself.
        target: config,
        manifest: config,
        name,
        config,
        chain_id,
    })
}

/// The chain of the layers that the config object lists.
fn chain_of(store: &Path, name: &str, config: Digest) -> Result<Digest, IdentifyError> {
    let text = config.to_string();
    let hex = text.trim_start_matches("sha256:");
    let path = store.join("imagedb/content/sha256").join(hex);
    let bytes = match docker::read(&path, DOCUMENT_LIMIT as u64) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(IdentifyError::ImageGone {
                name: name.to_owned(),
            });
        }
        read => read.map_err(|source| IdentifyError::Docker { path, source })?,
    };
    if Digest::of(&bytes) != config {
        return Err(IdentifyError::WrongBytes { digest: text });
    }
    let config: ImageConfiguration = parse(&text, &bytes)?;
    chain_id(config.rootfs().diff_ids())
}

fn word(path: &Path) -> Result<String, IdentifyError> {
    let fail = |source| IdentifyError::Docker {
        path: path.to_owned(),
        source,
    };
    let bytes = docker::read(path, WORD_LIMIT).map_err(fail)?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    /// A data root with one container `c1` on an image of one layer.
    fn data_root() -> (TempDir, Place, Digest, Digest) {
        let root = TempDir::new().unwrap();
        let layer = Digest::of(b"layer");
        let config = format!(
            r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{layer}"]}},"config":{{}},"history":[]}}"#
        );
        let image = Digest::of(config.as_bytes());
        let hex = image.to_string().split_off(7);
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write(&format!("image/overlay2/imagedb/content/sha256/{hex}"), &config);
        write("image/overlay2/layerdb/mounts/c1/mount-id", "l1");
        write("image/overlay2/layerdb/mounts/c1/parent", &layer.to_string());
        let record = format!(r#"{{"ID":"c1","Name":"/web","Image":"{image}","Config":{{"Image":"app:1"}}}}"#);
        write("containers/c1/config.v2.json", &record);
        let place = Place::of(&root.path().join("overlay2/l1/merged"), "c1").unwrap();
        (root, place, image, layer)
    }

    #[test]
    fn the_image_is_the_one_that_the_root_filesystem_stands_on() {
        let (_root, place, image, layer) = data_root();
        let facts = image_of(&place, "c1").unwrap();
        assert_eq!((facts.config, facts.chain_id), (image, layer));
        assert_eq!(facts.name, "app:1");
    }

    #[test]
    fn records_that_do_not_agree_are_no_answer() {
        let (root, place, image, _layer) = data_root();
        let other = Place::of(&root.path().join("overlay2/l2/merged"), "c1").unwrap();
        assert!(matches!(image_of(&other, "c1"), Err(IdentifyError::Moved { .. })));
        let parent = root.path().join("image/overlay2/layerdb/mounts/c1/parent");
        fs::write(parent, Digest::of(b"other").to_string()).unwrap();
        assert!(matches!(image_of(&place, "c1"), Err(IdentifyError::Moved { .. })));
        let hex = image.to_string().split_off(7);
        let config = root
            .path()
            .join("image/overlay2/imagedb/content/sha256")
            .join(hex);
        fs::write(&config, "{}").unwrap();
        assert!(matches!(
            image_of(&place, "c1"),
            Err(IdentifyError::WrongBytes { .. })
        ));
        fs::remove_file(&config).unwrap();
        assert!(matches!(
            image_of(&place, "c1"),
            Err(IdentifyError::ImageGone { .. })
        ));
        fs::remove_file(root.path().join("containers/c1/config.v2.json")).unwrap();
        assert!(matches!(
            image_of(&place, "c1"),
            Err(IdentifyError::Docker { .. })
        ));
    }
}

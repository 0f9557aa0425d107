//! A Docker archive of many images, whoever wrote it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::rc::Rc;
use std::time::SystemTime;

use serde_json::Value;

use super::tree::{Entry, Tree, read_layer};

/// The files of an archive, and the layers of it that were read.
pub(crate) struct Archive {
    files: HashMap<String, Vec<u8>>,
    links: HashMap<String, String>,
    layers: RefCell<HashMap<String, Rc<Vec<Entry>>>>,
}

/// An image of an archive.
pub(crate) struct Image {
    /// Its configuration.
    pub(crate) config: Value,
    /// How many layers it has.
    pub(crate) layers: usize,
    /// Its root file system.
    pub(crate) tree: Tree,
}

impl Archive {
    /// Reads a whole archive.
    pub(crate) fn read(path: &Path) -> Self {
        let mut files = HashMap::new();
        let mut links = HashMap::new();
        let mut archive = tar::Archive::new(fs::File::open(path).unwrap());
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().to_str().unwrap().to_owned();
            if let Some(target) = entry.link_name().unwrap() {
                let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
                links.insert(name.clone(), resolve(folder, target.to_str().unwrap()));
                continue;
            }
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            files.insert(name, content);
        }
        Self {
            files,
            links,
            layers: RefCell::default(),
        }
    }

    fn file(&self, name: &str) -> &[u8] {
        let name = self.links.get(name).map_or(name, String::as_str);
        &self.files[name]
    }

    /// The image of a name; times from `since` on count as the time of the build.
    pub(crate) fn image(&self, tag: &str, since: SystemTime) -> Image {
        let manifest: Vec<Value> = serde_json::from_slice(self.file("manifest.json")).unwrap();
        let named = |image: &&Value| {
            let tags = image["RepoTags"].as_array();
            tags.is_some_and(|tags| {
                tags.iter()
                    .any(|name| is_named(name.as_str().unwrap(), tag))
            })
        };
        let image = manifest.iter().find(named).expect(tag);
        let config = serde_json::from_slice(self.file(image["Config"].as_str().unwrap())).unwrap();
        let layers = image["Layers"].as_array().unwrap();
        let mut tree = Tree::new(since);
        for layer in layers {
            tree.apply(&self.layer(layer.as_str().unwrap()));
        }
        Image {
            config,
            layers: layers.len(),
            tree,
        }
    }

    fn layer(&self, name: &str) -> Rc<Vec<Entry>> {
        let read = || Rc::new(read_layer(self.file(name)));
        self.layers
            .borrow_mut()
            .entry(name.to_owned())
            .or_insert_with(read)
            .clone()
    }
}

fn is_named(name: &str, tag: &str) -> bool {
    name == tag || name.strip_prefix("docker.io/library/") == Some(tag)
}

/// A link's target from the archive's root.
fn resolve(folder: &str, target: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            ".." => drop(parts.pop()),
            "" | "." => {}
            part => parts.push(part),
        }
    }
    parts.join("/")
}

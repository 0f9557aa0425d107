//! Where the bytes of the layers below are.

use std::io;

use crate::{FileContent, Node};

/// Says where the bytes of files of a [`crate::TreeView`]'s layers are, unpacking or
/// fetching a layer when it is asked for one of its files.
pub trait LayerContent: Sync {
    /// The bytes of `file`: a regular file, not empty and never a hard link. Its layer is
    /// number [`Node::layer`] of the view that it comes from.
    ///
    /// # Errors
    /// When the layer's content cannot be had.
    fn content(&self, file: &Node<'_>) -> io::Result<FileContent>;
}

/// For views whose files are never read: an empty tree.
#[derive(Clone, Copy, Debug)]
pub struct NoContent;

impl LayerContent for NoContent {
    fn content(&self, _file: &Node<'_>) -> io::Result<FileContent> {
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "the layer's content is not at hand",
        ))
    }
}

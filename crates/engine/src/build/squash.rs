//! The layers above the base as one layer (`--squash`), with the history that Docker gives it.
//!
//! The layer is put together from the indexes of those that it stands for; their files are
//! read when it is written, which is once: it is known by what it changes, like any other.

use std::sync::Arc;

use longshore_layers::SquashedLayer;
use longshore_oci::{HistoryEntry, ImageConfig};
use tokio::task::spawn_blocking;

use super::content::StoredContent;
use crate::EngineError;
use crate::layer::{Layer, LayerKey, LayerStore};

/// `layers` with all but the lowest `base` as one; the same where they are at most one.
pub(crate) async fn squash(
    store: &Arc<LayerStore>,
    layers: Vec<Arc<Layer>>,
    base: usize,
) -> Result<Vec<Arc<Layer>>, EngineError> {
    if layers.len() <= base + 1 {
        return Ok(layers);
    }
    let view = store.view(&layers).await?;
    let store = Arc::clone(store);
    spawn_blocking(move || {
        let squashed = SquashedLayer::new(&view, base);
        let index = squashed.index().map_err(EngineError::layer("squashed"))?;
        // As old as its youngest part, so that the same build gives the same image again.
        let created = layers[base..].iter().map(|layer| layer.created).max();
        let created = created.unwrap_or_default();
        let mut result = layers[..base].to_vec();
        let known = store.recorded(LayerKey::Made(index.layer_id()), created);
        if store.is_available(&known)? {
            result.push(known);
            return Ok(result);
        }
        drop(known);
        let content = StoredContent::once(Arc::clone(&store), layers);
        let changes = squashed
            .changes(&content)
            .map_err(EngineError::layer("squashed"))?;
        result.push(store.made_at(index, changes, created));
        Ok(result)
    })
    .await?
}

/// What Docker's history says of a squashed image: the steps above the base made no layers,
/// and one entry without a command made the one that there is.
pub(crate) fn squash_history(config: &mut ImageConfig, base: usize) {
    let with_layers = config.history.iter_mut().filter(|entry| !entry.empty_layer);
    let mut merged = 0;
    for entry in with_layers.skip(base) {
        entry.empty_layer = true;
        merged += 1;
    }
    config.history.push(HistoryEntry {
        comment: format!("merge {merged} layers"),
        ..HistoryEntry::default()
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steps_above_the_base_made_no_layer_and_a_last_entry_made_one() {
        let entry = |created_by: &str, empty_layer| HistoryEntry {
            created_by: created_by.to_owned(),
            empty_layer,
            ..HistoryEntry::default()
        };
        let mut config = ImageConfig {
            history: vec![
                entry("base", false),
                entry("base CMD", true),
                entry("RUN", false),
                entry("ENV", true),
                entry("COPY", false),
            ],
            ..ImageConfig::default()
        };
        squash_history(&mut config, 1);
        let empty: Vec<bool> = config.history.iter().map(|e| e.empty_layer).collect();
        assert_eq!(empty, [false, true, true, true, true, false]);
        assert_eq!(config.history[5].comment, "merge 2 layers");
    }
}

//! Creation times of an image's history, filled in where the frontend left them open.
//!
//! Invariant: the times depend on the layers alone, so that a build whose layers all came
//! from the cache makes the same configuration, byte for byte, as the build that made them.

use jiff::Timestamp;
use longshore_oci::{HistoryEntry, ImageConfig};

/// Fills in `created` throughout `config`; `layer_times` are the layers', lowest first.
///
/// An entry that made a layer takes the layer's time. One that made none takes the time of
/// the layer before it, and those before the first new layer that layer's. In a reproducible
/// build all of them take its `epoch`.
pub(crate) fn fill_times(
    config: &mut ImageConfig,
    layer_times: &[Timestamp],
    epoch: Option<Timestamp>,
) {
    let mut layers = layer_times.iter();
    for entry in &mut config.history {
        let time = match entry.empty_layer {
            true => None,
            false => layers.next().copied(),
        };
        if entry.created.is_none() {
            entry.created = epoch.or(time).map(shown);
        }
    }
    fill_empty_entries(&mut config.history);
    let last = config
        .history
        .iter()
        .rev()
        .find_map(|entry| entry.created.clone());
    config.created = last.or_else(|| epoch.or_else(|| layer_times.last().copied()).map(shown));
}

fn fill_empty_entries(history: &mut [HistoryEntry]) {
    let first_open = history.iter().position(|entry| entry.created.is_none());
    let Some(first_open) = first_open else { return };
    // The first new layer's time; where there is none, the last that is known.
    let mut current = history[first_open..]
        .iter()
        .find_map(|entry| entry.created.clone())
        .or_else(|| {
            history[..first_open]
                .iter()
                .rev()
                .find_map(|entry| entry.created.clone())
        });
    for entry in &mut history[first_open..] {
        match &entry.created {
            Some(time) => current = Some(time.clone()),
            None => entry.created.clone_from(&current),
        }
    }
}

/// RFC 3339 in UTC with as many digits as the time has, as Go writes it.
pub(crate) fn shown(time: Timestamp) -> String {
    time.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(created: Option<&str>, empty_layer: bool) -> HistoryEntry {
        HistoryEntry {
            created: created.map(str::to_owned),
            empty_layer,
            ..HistoryEntry::default()
        }
    }

    fn times(config: &ImageConfig) -> Vec<&str> {
        config
            .history
            .iter()
            .map(|entry| entry.created.as_deref().unwrap_or("-"))
            .collect()
    }

    #[test]
    fn empty_entries_take_the_first_new_layers_time_and_then_the_one_before() {
        let base = "2020-01-01T00:00:00Z";
        let layers: Vec<Timestamp> = [base, "2021-01-01T00:00:00Z", "2022-01-01T00:00:00Z"]
            .iter()
            .map(|t| t.parse().unwrap())
            .collect();
        let mut config = ImageConfig {
            history: vec![
                entry(Some(base), false),
                entry(None, true),
                entry(None, false),
                entry(None, true),
                entry(None, false),
            ],
            ..ImageConfig::default()
        };
        fill_times(&mut config, &layers, None);
        assert_eq!(
            times(&config),
            [
                base,
                "2021-01-01T00:00:00Z",
                "2021-01-01T00:00:00Z",
                "2021-01-01T00:00:00Z",
                "2022-01-01T00:00:00Z"
            ]
        );
        assert_eq!(config.created.as_deref(), Some("2022-01-01T00:00:00Z"));
    }

    #[test]
    fn metadata_alone_takes_the_bases_time() {
        let base = "2020-01-01T00:00:00Z";
        let mut config = ImageConfig {
            history: vec![entry(Some(base), false), entry(None, true)],
            ..ImageConfig::default()
        };
        fill_times(&mut config, &[base.parse().unwrap()], None);
        assert_eq!(times(&config), [base, base]);
    }

    #[test]
    fn the_epoch_is_the_time_of_what_is_new() {
        let mut config = ImageConfig {
            history: vec![
                entry(Some("2024-01-01T00:00:00Z"), false),
                entry(None, true),
                entry(None, false),
            ],
            ..ImageConfig::default()
        };
        let layers = [
            "2024-01-01T00:00:00Z".parse().unwrap(),
            "2025-01-01T00:00:00Z".parse().unwrap(),
        ];
        fill_times(
            &mut config,
            &layers,
            Some("1970-01-01T00:00:00Z".parse().unwrap()),
        );
        assert_eq!(
            times(&config),
            [
                "2024-01-01T00:00:00Z",
                "1970-01-01T00:00:00Z",
                "1970-01-01T00:00:00Z"
            ]
        );
    }
}

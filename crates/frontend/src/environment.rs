//! Variables in the order of their last assignment.

use std::collections::{BTreeMap, HashMap};

use longshore_dockerfile::expand::Environment;

/// Variables in the order of their last assignment, as BuildKit passes them to `RUN`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Variables {
    values: HashMap<String, (u64, String)>,
    order: BTreeMap<u64, String>,
    next: u64,
}

impl Variables {
    pub(crate) fn set(&mut self, name: &str, value: impl Into<String>) {
        let place = self.next;
        self.next += 1;
        if let Some((before, _)) = self.values.insert(name.to_owned(), (place, value.into())) {
            self.order.remove(&before);
        }
        self.order.insert(place, name.to_owned());
    }

    pub(crate) fn remove(&mut self, name: &str) {
        if let Some((place, _)) = self.values.remove(name) {
            self.order.remove(&place);
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.order.values().map(String::as_str)
    }

    pub(crate) fn pairs(&self) -> Vec<(String, String)> {
        let pair = |name: &String| (name.clone(), self.get(name).unwrap_or_default().to_owned());
        self.order.values().map(pair).collect()
    }

    /// How many bytes the kernel would have to pass on.
    pub(crate) fn bytes(&self) -> usize {
        self.values
            .iter()
            .map(|(name, (_, value))| name.len() + value.len() + 2)
            .sum()
    }
}

impl Environment for Variables {
    fn lookup(&self, name: &str) -> Option<&str> {
        self.get(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assigning_again_moves_to_the_end() {
        let mut variables = Variables::default();
        for (name, value) in [("A", "1"), ("B", "2"), ("A", "3"), ("C", "4")] {
            variables.set(name, value);
        }
        variables.remove("C");
        let text = |(name, value): (String, String)| format!("{name}={value}");
        let pairs: Vec<String> = variables.pairs().into_iter().map(text).collect();
        assert_eq!(pairs, ["B=2", "A=3"]);
    }
}

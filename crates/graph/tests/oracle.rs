//! Order and reachability of random graphs, against an independent graph library.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use longshore_graph::{Graph, Input, Op, Source, Vertex, VertexId};
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::Dfs;
use proptest::prelude::*;

/// For each vertex, which of the earlier ones it takes.
fn edges() -> impl Strategy<Value = Vec<Vec<prop::sample::Index>>> {
    prop::collection::vec(
        prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        1..60,
    )
}

fn build(edges: &[Vec<prop::sample::Index>]) -> (Graph, DiGraph<(), ()>) {
    let (mut ours, mut theirs) = (Graph::default(), DiGraph::new());
    for (number, inputs) in edges.iter().enumerate() {
        let inputs: Vec<usize> = if number == 0 {
            Vec::new()
        } else {
            inputs.iter().map(|at| at.index(number)).collect()
        };
        let op = if inputs.is_empty() {
            Op::Source(Source::Scratch)
        } else {
            Op::Merge
        };
        let taken = inputs
            .iter()
            .map(|at| Input::first(VertexId(u32::try_from(*at).unwrap())));
        ours.push(Vertex::new(format!("v{number}"), op, taken.collect()))
            .unwrap();
        let node = theirs.add_node(());
        for at in inputs {
            theirs.add_edge(node, NodeIndex::new(at), ());
        }
    }
    (ours, theirs)
}

proptest! {
    #[test]
    fn what_a_target_needs_is_what_a_search_finds(edges in edges(), target in any::<prop::sample::Index>()) {
        let (ours, theirs) = build(&edges);
        let target = target.index(edges.len());
        let mut found = Vec::new();
        let mut search = Dfs::new(&theirs, NodeIndex::new(target));
        while let Some(node) = search.next(&theirs) {
            found.push(node.index());
        }
        found.sort_unstable();
        let needed: Vec<usize> =
            ours.reachable(&[VertexId(u32::try_from(target).unwrap())]).iter().map(|id| id.index()).collect();
        prop_assert_eq!(needed, found);
    }

    #[test]
    fn the_arena_is_a_topological_order(edges in edges()) {
        let (ours, theirs) = build(&edges);
        prop_assert!(petgraph::algo::toposort(&theirs, None).is_ok());
        for (id, vertex) in ours.iter() {
            prop_assert!(vertex.inputs.iter().all(|input| input.vertex < id));
        }
    }
}

//! An Aho-Corasick automaton in eight bytes for each byte of what it looks for. Called by the matcher only.
//!
//! The forms of one large secret are megabytes that hardly branch, and an automaton for general use takes forty bytes
//! for each of theirs, and as many again while it is built. Here the trie lies in preorder: the first child of a node
//! is the next one, and only what is not the first needs a table.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Ids of nodes have so many bits, and flags the others.
const LINK_BITS: u32 = 28;
const LINK: u32 = (1 << LINK_BITS) - 1;
/// It has a child, and that is the next node.
const HAS_CHILD: u32 = 1 << 31;
/// It has more than one.
const HAS_BRANCHES: u32 = 1 << 30;
/// A form ends here.
const ENDS: u32 = 1 << 29;
/// None ends here, but one that began later than this path.
const ENDS_WITHIN: u32 = 1 << 28;

/// The byte of a node has so many bits, and its depth the others.
const BYTE_BITS: u32 = 8;
const MAX_DEPTH: u32 = u32::MAX >> BYTE_BITS;

const ROOT: u32 = 0;

/// Where a stream is in the automaton.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct NodeId(u32);

/// The forms cannot be numbered.
#[derive(Debug, thiserror::Error)]
#[error("the forms of all secrets have too many bytes to be searched for")]
pub(crate) struct TooLarge;

/// All forms, ready to be walked.
pub(crate) struct Automaton {
    nodes: Vec<Node>,
    /// The root's children; itself where it has none.
    first: Box<[u32; 256]>,
    /// Children that are not the next node, by [`edge`].
    branches: HashMap<u64, u32, BuildHasherDefault<Mixer>>,
    /// Lengths of what ends within other forms.
    within: HashMap<u64, u32, BuildHasherDefault<Mixer>>,
}

#[derive(Clone, Copy)]
struct Node {
    /// Where to go on when no child fits, and flags.
    link: u32,
    /// How deep it lies, and the byte that leads to it.
    place: u32,
}

impl Node {
    const fn depth(self) -> u32 {
        self.place >> BYTE_BITS
    }

    const fn byte(self) -> u8 {
        self.place.to_le_bytes()[0]
    }
}

impl Automaton {
    /// The forms must be sorted.
    pub(crate) fn build(sorted: &[&[u8]]) -> Result<Self, TooLarge> {
        let mut automaton = Self {
            nodes: vec![Node { link: ROOT, place: 0 }],
            first: Box::new([ROOT; 256]),
            branches: HashMap::default(),
            within: HashMap::default(),
        };
        let edges = automaton.lay_out(sorted)?;
        automaton.nodes.shrink_to_fit();
        automaton.link(&edges);
        Ok(automaton)
    }

    /// Makes the trie of sorted forms; answers the edges to children that are not the next node, by parent.
    fn lay_out(&mut self, forms: &[&[u8]]) -> Result<Vec<(u32, u32)>, TooLarge> {
        let mut edges = Vec::new();
        let mut path = vec![ROOT];
        let mut previous: &[u8] = &[];
        for form in forms {
            let shared = previous
                .iter()
                .zip(*form)
                .take_while(|(one, other)| one == other)
                .count();
            path.truncate(shared + 1);
            for byte in form.get(shared..).unwrap_or_default() {
                let parent = path.last().copied().unwrap_or(ROOT);
                let node = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
                let depth = u32::try_from(path.len()).unwrap_or(u32::MAX);
                if node > LINK || depth > MAX_DEPTH {
                    return Err(TooLarge);
                }
                if parent == ROOT {
                    self.first[usize::from(*byte)] = node;
                } else if parent + 1 == node {
                    self.flag(parent, HAS_CHILD);
                } else {
                    self.flag(parent, HAS_BRANCHES);
                    self.branches.insert(edge(parent, *byte), node);
                    edges.push((parent, node));
                }
                self.nodes.push(Node {
                    link: ROOT,
                    place: depth << BYTE_BITS | u32::from(*byte),
                });
                path.push(node);
            }
            self.flag(path.last().copied().unwrap_or(ROOT), ENDS);
            previous = form;
        }
        edges.sort_unstable();
        Ok(edges)
    }

    /// Says of every node where to go on when no child fits: the longest end of its path that begins a form. Level by
    /// level, for that lies on an earlier one.
    fn link(&mut self, edges: &[(u32, u32)]) {
        let mut level: Vec<u32> = self.first.iter().copied().filter(|node| *node != ROOT).collect();
        while !level.is_empty() {
            let mut next = Vec::with_capacity(level.len());
            for parent in level {
                let node = self.node(parent);
                let begin = next.len();
                if node.link & HAS_CHILD != 0 {
                    next.push(parent + 1);
                }
                if node.link & HAS_BRANCHES != 0 {
                    let from = edges.partition_point(|(of, _)| *of < parent);
                    let others = edges.get(from..).unwrap_or_default();
                    next.extend(
                        others
                            .iter()
                            .take_while(|(of, _)| *of == parent)
                            .map(|(_, child)| *child),
                    );
                }
                for child in next.get(begin..).unwrap_or_default() {
                    let to = self.walk(node.link & LINK, self.node(*child).byte());
                    self.set_link(*child, to);
                }
            }
            level = next;
        }
    }

    fn set_link(&mut self, node: u32, to: u32) {
        self.flag(node, to);
        let within = self.longest(NodeId(to));
        if within > 0 && self.node(node).link & ENDS == 0 {
            self.flag(node, ENDS_WITHIN);
            self.within.insert(node.into(), within);
        }
    }

    fn flag(&mut self, node: u32, flag: u32) {
        if let Some(node) = self.nodes.get_mut(index(node)) {
            node.link |= flag;
        }
    }

    fn node(&self, node: u32) -> Node {
        self.nodes
            .get(index(node))
            .copied()
            .unwrap_or(Node { link: ROOT, place: 0 })
    }

    fn walk(&self, mut from: u32, byte: u8) -> u32 {
        while from != ROOT {
            let node = self.node(from);
            if node.link & HAS_CHILD != 0 && self.node(from + 1).byte() == byte {
                return from + 1;
            }
            if node.link & HAS_BRANCHES != 0
                && let Some(child) = self.branches.get(&edge(from, byte))
            {
                return *child;
            }
            from = node.link & LINK;
        }
        self.first[usize::from(byte)]
    }

    /// Where `byte` leads.
    pub(crate) fn next(&self, from: NodeId, byte: u8) -> NodeId {
        NodeId(self.walk(from.0, byte))
    }

    /// How many bytes are matched of the longest form that is still possible.
    pub(crate) fn depth(&self, at: NodeId) -> usize {
        index(self.node(at.0).depth())
    }

    /// The length of the longest form that ends here; 0 for none.
    pub(crate) fn longest(&self, at: NodeId) -> u32 {
        let node = self.node(at.0);
        if node.link & ENDS != 0 {
            node.depth()
        } else if node.link & ENDS_WITHIN != 0 {
            self.within.get(&at.0.into()).copied().unwrap_or(0)
        } else {
            0
        }
    }
}

/// Names a child.
fn edge(parent: u32, byte: u8) -> u64 {
    u64::from(parent) << BYTE_BITS | u64::from(byte)
}

fn index(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// Spreads numbers; nobody gains from keys that meet.
#[derive(Default)]
pub(crate) struct Mixer(u64);

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, number: u64) {
        let mixed = (self.0 ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = mixed ^ mixed >> 32;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The length of the longest beginning of a form that is an end of `text`.
    fn depth(forms: &[&[u8]], text: &[u8]) -> usize {
        let longest = (0..=text.len()).find(|from| forms.iter().any(|form| form.starts_with(&text[*from..])));
        text.len() - longest.unwrap_or(text.len())
    }

    proptest! {
        #[test]
        fn every_place_has_the_longest_beginning_and_the_longest_end(
            forms in prop::collection::vec("[ab]{1,6}|a{1,9}|[abc]{1,4}", 1..8),
            text in "[abcd]{0,60}",
        ) {
            let mut forms: Vec<&[u8]> = forms.iter().map(String::as_bytes).collect();
            forms.sort_unstable();
            let automaton = Automaton::build(&forms).expect("small");
            let mut at = NodeId::default();
            for end in 1..=text.len() {
                let seen = &text.as_bytes()[..end];
                at = automaton.next(at, seen[end - 1]);
                prop_assert_eq!(automaton.depth(at), depth(&forms, seen));
                let ending = forms.iter().filter(|form| seen.ends_with(form)).map(|form| form.len()).max();
                prop_assert_eq!(index(automaton.longest(at)), ending.unwrap_or(0));
            }
        }
    }
}

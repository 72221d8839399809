//! What a log says of itself at one moment: the body of a C2SP tlog-checkpoint.
//!
//! ```text
//! cloakroom/<tree id>
//! <leaves>
//! <root, base64>
//! [lines that extend it, passed over here]
//! ```

use data_encoding::BASE64;

use crate::ids::TreeId;
use crate::merkle::Hash;

/// How large a log's tree was, and its root.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checkpoint {
    /// Which log; also the name that signs it.
    pub origin: String,
    /// How many leaves.
    pub size: u64,
    /// The root over them.
    pub root: Hash,
}

/// The name of the log that belongs to a key tree.
pub fn origin(tree: TreeId) -> String {
    format!("cloakroom/{tree}")
}

impl Checkpoint {
    /// The text that is signed; ends with a newline.
    pub fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, BASE64.encode(&self.root))
    }

    /// Reads the text back; none for anything else. Lines behind the third are extensions.
    pub fn parse(text: &str) -> Option<Self> {
        let mut lines = text.strip_suffix('\n')?.split('\n');
        let (origin, size, root) = (lines.next()?, lines.next()?, lines.next()?);
        let number: u64 = size.parse().ok()?;
        let root = BASE64.decode(root.as_bytes()).ok()?.try_into().ok()?;
        let one_spelling =
            number.to_string() == size && !origin.is_empty() && lines.all(|line| !line.is_empty());
        one_spelling.then(|| Self { origin: origin.to_owned(), size: number, root })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_comes_back_and_nothing_else_is_one() {
        let checkpoint = Checkpoint { origin: "cloakroom/x".into(), size: 20_852_163, root: [7; 32] };
        let text = checkpoint.text();
        assert_eq!(text, "cloakroom/x\n20852163\nBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=\n");
        assert_eq!(Checkpoint::parse(&text), Some(checkpoint.clone()));
        assert_eq!(Checkpoint::parse(&format!("{text}later 1\n")), Some(checkpoint));
        for wrong in [
            text.trim_end().to_owned(),
            text.replace("2085", "02085"),
            text.replace("2085", "-2085"),
            text.replace("Bwc=", "Bw=="),
            text.replace("cloakroom/x", ""),
            format!("{text}\n"),
            String::new(),
        ] {
            assert_eq!(Checkpoint::parse(&wrong), None, "{wrong:?}");
        }
    }
}

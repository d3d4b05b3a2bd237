//! Says what is wrong once, not at every retry, and says when it is over.

use std::collections::BTreeMap;

/// What has been said and still holds: subject → text.
#[derive(Debug, Default)]
pub struct Messages {
    said: BTreeMap<String, String>,
}

/// What is different since the last time.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Texts to say now: their subject is new, or says something else than before.
    pub new: Vec<String>,
    /// Subjects that no longer have anything to say.
    pub over: Vec<String>,
}

impl Messages {
    /// Takes note of everything that holds now.
    pub fn update(&mut self, current: BTreeMap<String, String>) -> Changes {
        let new = current
            .iter()
            .filter(|(subject, text)| self.said.get(*subject) != Some(text))
            .map(|(_, text)| text.clone())
            .collect();
        let over = self
            .said
            .keys()
            .filter(|subject| !current.contains_key(*subject))
            .cloned()
            .collect();
        self.said = current;
        Changes { new, over }
    }

    /// Takes note of what is different: these subjects no longer have anything to say, and those say this.
    pub fn change(
        &mut self,
        over: impl IntoIterator<Item = String>,
        current: BTreeMap<String, String>,
    ) -> Changes {
        let over = over
            .into_iter()
            .filter(|subject| !current.contains_key(subject) && self.said.remove(subject).is_some())
            .collect();
        let mut new = Vec::new();
        for (subject, text) in current {
            if self.said.get(&subject) != Some(&text) {
                new.push(text.clone());
                self.said.insert(subject, text);
            }
        }
        Changes { new, over }
    }

    /// Whether nothing that was said holds.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.said.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map<const N: usize>(messages: [(&str, &str); N]) -> BTreeMap<String, String> {
        messages
            .into_iter()
            .map(|(s, t)| (s.to_owned(), t.to_owned()))
            .collect()
    }

    #[test]
    fn said_once_per_change_and_once_when_over() {
        let mut messages = Messages::default();
        assert_eq!(messages.update(map([("a", "a is bad")])).new, ["a is bad"]);
        assert_eq!(messages.update(map([("a", "a is bad")])), Changes::default());
        let changes = messages.update(map([("a", "a is worse"), ("b", "b is bad")]));
        assert_eq!(changes.new, ["a is worse", "b is bad"]);
        let changes = messages.update(map([("b", "b is bad")]));
        assert_eq!(
            changes,
            Changes {
                new: vec![],
                over: vec!["a".to_owned()]
            }
        );
    }

    #[test]
    fn a_change_says_the_same_as_the_whole() {
        let mut messages = Messages::default();
        messages.update(map([("a", "a is bad"), ("b", "b is bad")]));
        let over = || ["a", "b", "d"].map(str::to_owned);
        let changes = messages.change(over(), map([("b", "b is worse"), ("c", "c is bad")]));
        assert_eq!(changes.new, ["b is worse", "c is bad"]);
        assert_eq!(changes.over, ["a"]);
        assert_eq!(
            messages.update(map([("b", "b is worse"), ("c", "c is bad")])),
            Changes::default()
        );
    }
}

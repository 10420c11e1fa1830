//! Undo and redo: snapshots of the session, each with the label of the command that left it. Called by the workbench.

use super::Session;

const LONGEST: usize = 500;

#[derive(Default)]
pub struct History {
    past: Vec<(String, Session)>,
    future: Vec<(String, Session)>,
    /// The gesture that the newest snapshot belongs to: a slider's many edits are one.
    gesture: Option<String>,
}

impl History {
    /// Keeps `before`, the session as it was when the command labelled `label` came. Edits of one `gesture` that follow
    /// each other share one snapshot.
    pub fn keep(&mut self, label: String, gesture: Option<String>, before: &Session) {
        self.future.clear();
        if gesture.is_some() && gesture == self.gesture && !self.past.is_empty() {
            return;
        }
        self.gesture = gesture;
        self.past.push((label, before.clone()));
        if self.past.len() > LONGEST {
            self.past.remove(0);
        }
    }

    /// Ends the gesture: the next edit is a step of its own.
    pub fn end_gesture(&mut self) {
        self.gesture = None;
    }

    pub fn undo(&mut self, now: &mut Session) -> Option<String> {
        self.gesture = None;
        let (label, before) = self.past.pop()?;
        self.future.push((label.clone(), std::mem::replace(now, before)));
        Some(label)
    }

    pub fn redo(&mut self, now: &mut Session) -> Option<String> {
        self.gesture = None;
        let (label, after) = self.future.pop()?;
        self.past.push((label.clone(), std::mem::replace(now, after)));
        Some(label)
    }

    /// What undo and redo would do, for menus.
    pub fn labels(&self) -> (Option<&str>, Option<&str>) {
        (self.past.last().map(|(l, _)| l.as_str()), self.future.last().map(|(l, _)| l.as_str()))
    }
}

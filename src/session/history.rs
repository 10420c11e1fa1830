//! Undo and redo: snapshots of the session, each with the label of the command that left it. A step that took another file
//! brings the old one back too. Called by the workbench.

use std::path::PathBuf;

use super::Session;

const LONGEST: usize = 500;

struct Step {
    label: String,
    session: Session,
    /// The file that the session lived in, where this step changed that.
    file: Option<Option<PathBuf>>,
}

#[derive(Default)]
pub struct History {
    past: Vec<Step>,
    future: Vec<Step>,
    /// The gesture that the newest snapshot belongs to: a slider's many edits are one.
    gesture: Option<String>,
}

impl History {
    /// Keeps `before`, the session as it was when the command labelled `label` came. Edits of one `gesture` that follow
    /// each other share one snapshot.
    pub fn keep(&mut self, label: String, gesture: Option<String>, before: &Session) {
        if gesture.is_some() && gesture == self.gesture && !self.past.is_empty() {
            self.future.clear();
            return;
        }
        self.gesture = gesture;
        self.push(Step { label, session: before.clone(), file: None });
    }

    /// As `keep`, for a command that goes over to another file: `file` is the one before.
    pub fn keep_with_file(&mut self, label: String, before: &Session, file: Option<PathBuf>) {
        self.gesture = None;
        self.push(Step { label, session: before.clone(), file: Some(file) });
    }

    fn push(&mut self, step: Step) {
        self.future.clear();
        self.past.push(step);
        if self.past.len() > LONGEST {
            self.past.remove(0);
        }
    }

    /// Ends the gesture: the next edit is a step of its own.
    pub fn end_gesture(&mut self) {
        self.gesture = None;
    }

    /// Takes back the last step: its label, or none where there is nothing to take back.
    pub fn undo(&mut self, now: &mut Session, file: &mut Option<PathBuf>) -> Option<String> {
        self.gesture = None;
        walk(&mut self.past, &mut self.future, now, file)
    }

    pub fn redo(&mut self, now: &mut Session, file: &mut Option<PathBuf>) -> Option<String> {
        self.gesture = None;
        walk(&mut self.future, &mut self.past, now, file)
    }

    /// What undo and redo would do, for menus.
    pub fn labels(&self) -> (Option<&str>, Option<&str>) {
        (self.past.last().map(|step| step.label.as_str()), self.future.last().map(|step| step.label.as_str()))
    }
}

/// Goes one step from `from` and leaves the way back on `to`.
fn walk(from: &mut Vec<Step>, to: &mut Vec<Step>, now: &mut Session, file: &mut Option<PathBuf>) -> Option<String> {
    let step = from.pop()?;
    to.push(Step {
        label: step.label.clone(),
        session: std::mem::replace(now, step.session),
        file: step.file.map(|before| std::mem::replace(file, before)),
    });
    Some(step.label)
}

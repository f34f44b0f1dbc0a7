//! `rejoin forget`: inputs, results and output of tasks that have ended go

use std::collections::BTreeSet;

use rejoin_core::ids::TaskId;
use rejoin_core::limits::{ASKS_MAX, TERMS_SINCE};
use rejoin_core::wire::message::Refused;
use rejoin_core::wire::view::{Forgetting, Question};
use serde_json::{Value, json};

use crate::args::Forget;
use crate::ask::{lines, refusal, with};
use crate::caller::Failed;
use crate::report::{EXIT_INTERNAL, EXIT_INTERRUPTED};
use crate::say::{complain, print};

/// Exit status where some tasks have not ended
const EXIT_OPEN: u8 = 1;

/// `rejoin forget`
pub fn forget(args: &Forget) -> u8 {
    with(&args.reach, false, async |caller| {
        // Whoever is asked first tells which version it speaks.
        caller.status().await?;
        if caller.connection().wire_version() < TERMS_SINCE {
            return Err(Failed::Internal("the coordinator is too old to forget tasks when it is asked to".into()));
        }
        let tasks: Vec<TaskId> = args.tasks.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
        let mut answers = Vec::new();
        // Several at a time: each costs a round trip.
        for tasks in tasks.chunks(ASKS_MAX) {
            let asked: Vec<(TaskId, u64)> = tasks
                .iter()
                .map(|task| Ok((*task, caller.begin(&Question::Forget(*task))?)))
                .collect::<Result<_, Failed>>()?;
            for (task, ask) in asked {
                answers.push((task, caller.answer_to::<Forgetting>(ask).await?));
            }
        }
        let has = |wanted| answers.iter().any(|(_, answer)| *answer == wanted);
        let status = match (has(Forgetting::Unknown), has(Forgetting::Open)) {
            (true, _) => EXIT_INTERNAL,
            (false, true) => EXIT_OPEN,
            (false, false) => 0,
        };
        let said = if args.json { lines(&answers.iter().map(as_json).collect()) } else { as_text(&answers) };
        Ok(if print(&said) { status } else { EXIT_INTERRUPTED })
    })
}

fn as_json((task, answer): &(TaskId, Forgetting)) -> Value {
    json!({ "id": task.to_string(), "forgotten": *answer == Forgetting::Done, "error": trouble(*task, *answer) })
}

/// A line for each that is forgotten; what stands in the way of the others is said on standard error
fn as_text(answers: &[(TaskId, Forgetting)]) -> String {
    let mut text = String::new();
    for (task, answer) in answers {
        match trouble(*task, *answer) {
            Some(trouble) => complain(&trouble),
            None => text.push_str(&format!("{task} forgotten\n")),
        }
    }
    text
}

fn trouble(task: TaskId, answer: Forgetting) -> Option<String> {
    match answer {
        Forgetting::Done => None,
        Forgetting::Open => Some(format!(
            "{task}: it has not ended, and stays as it is: wait for it (`rejoin wait`) or stop it (`rejoin cancel`) first"
        )),
        Forgetting::Unknown => Some(refusal(task, Refused::Unknown)),
    }
}

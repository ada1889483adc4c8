//! Rise and fall: from single results to a state that does not flap. No clock, no socket.

/// A host became healthy or unhealthy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is healthy from now on.
    Up,
    /// It is unhealthy from now on.
    Down,
}

/// The state of one probed thing.
///
/// ```text
///             first success            `fall` failures in a row
///   unknown ───────────────▶ healthy ───────────────────────────▶ unhealthy
///      │                        ▲        `rise` successes in a row    │ ▲
///      │                        └────────────────────────────────────┘ │
///      └──────────────── first failure ────────────────────────────────┘
/// ```
#[derive(Clone, Debug)]
pub struct Machine {
    rise: u32,
    fall: u32,
    healthy: Option<bool>,
    /// Results in a row that contradict `healthy`.
    against: u32,
    /// Whether a result has been seen.
    seen: bool,
    reason: Option<String>,
    /// Latest failures in a row that were no answer of any kind.
    quiet: u32,
}

/// A probe that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The reason shown to operators.
    pub reason: String,
    /// There was no answer of any kind.
    pub silent: bool,
}

impl Machine {
    /// A machine that goes on from `initial`, or lets the first result decide.
    pub fn new(rise: u32, fall: u32, initial: Option<bool>) -> Self {
        Self { rise, fall, healthy: initial, against: 0, seen: false, reason: None, quiet: 0 }
    }

    /// Takes new thresholds; what has been counted stays counted.
    pub fn set_thresholds(&mut self, rise: u32, fall: u32) {
        self.rise = rise;
        self.fall = fall;
    }

    /// Takes the result of a probe.
    pub fn result(&mut self, result: Result<(), Failure>) -> Option<Change> {
        self.seen = true;
        let success = result.is_ok();
        let silent = matches!(&result, Err(failure) if failure.silent);
        self.quiet = if silent { self.quiet.saturating_add(1) } else { 0 };
        match result {
            Err(failure) => self.reason = Some(failure.reason),
            Ok(()) if self.healthy != Some(false) => self.reason = None,
            Ok(()) => {}
        }
        if self.healthy == Some(success) {
            self.against = 0;
            return None;
        }
        self.against += 1;
        let needed = match self.healthy {
            None => 1,
            Some(false) => self.rise,
            Some(true) => self.fall,
        };
        if self.against < needed {
            return None;
        }
        self.healthy = Some(success);
        self.against = 0;
        if success {
            self.reason = None;
            return Some(Change::Up);
        }
        Some(Change::Down)
    }

    /// Whether it counts as healthy; unknown does not.
    pub fn healthy(&self) -> bool {
        self.healthy.unwrap_or(false)
    }

    /// Whether a result has been seen since the machine was made.
    pub fn known(&self) -> bool {
        self.seen
    }

    /// Whether it is unhealthy and as many failures in a row as make a thing unhealthy were no answer of any kind. One
    /// answer of any kind ends that: what answers lives.
    pub fn silent(&self) -> bool {
        !self.healthy() && self.quiet >= self.fall.max(1)
    }

    /// The latest failure, until successes have made up for it.
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fail() -> Result<(), Failure> {
        Err(Failure { reason: "status 503".into(), silent: false })
    }

    fn nothing() -> Result<(), Failure> {
        Err(Failure { reason: "connect: timeout".into(), silent: true })
    }

    #[test]
    fn only_failures_without_any_answer_make_it_silent() {
        let mut machine = Machine::new(2, 3, Some(true));
        for _ in 0..2 {
            machine.result(nothing());
            assert!(!machine.silent(), "still healthy");
        }
        machine.result(nothing());
        assert!(!machine.healthy() && machine.silent());

        let mut mixed = Machine::new(2, 3, Some(true));
        for result in [nothing(), fail(), nothing()] {
            mixed.result(result);
        }
        assert!(!mixed.healthy() && !mixed.silent(), "it has answered meanwhile");
        mixed.result(nothing());
        assert!(!mixed.silent());
        mixed.result(nothing());
        assert!(mixed.silent(), "three in a row by now");
    }

    #[test]
    fn an_answer_of_any_kind_ends_silence_before_it_is_healthy() {
        for answer in [fail(), Ok(())] {
            let mut machine = Machine::new(2, 2, Some(true));
            machine.result(nothing());
            machine.result(nothing());
            assert!(machine.silent());
            machine.result(answer);
            assert!(!machine.healthy() && !machine.silent());
        }
    }

    #[test]
    fn the_first_failure_makes_it_unhealthy_but_not_silent() {
        let mut machine = Machine::new(2, 3, None);
        machine.result(nothing());
        assert!(!machine.healthy() && !machine.silent());
    }

    #[test]
    fn the_first_result_decides_when_nothing_is_known() {
        let mut up = Machine::new(2, 3, None);
        assert!(!up.healthy() && !up.known());
        assert_eq!(up.result(Ok(())), Some(Change::Up));
        assert!(up.healthy() && up.known());

        let mut down = Machine::new(2, 3, None);
        assert_eq!(down.result(fail()), Some(Change::Down));
        assert!(!down.healthy() && down.known());
        assert_eq!(down.reason(), Some("status 503"));
    }

    #[test]
    fn an_initial_state_holds_until_rise_or_fall_is_reached() {
        let mut machine = Machine::new(2, 3, Some(true));
        assert_eq!([machine.result(fail()), machine.result(fail())], [None, None]);
        assert!(machine.healthy());
        assert_eq!(machine.result(fail()), Some(Change::Down));

        let mut machine = Machine::new(2, 3, Some(false));
        assert_eq!(machine.result(Ok(())), None);
        assert_eq!(machine.result(Ok(())), Some(Change::Up));
    }

    #[test]
    fn one_success_forgives_earlier_failures() {
        let mut machine = Machine::new(2, 2, Some(true));
        for _ in 0..5 {
            assert_eq!(machine.result(fail()), None);
            assert_eq!(machine.result(Ok(())), None);
            assert_eq!(machine.reason(), None);
        }
    }

    #[test]
    fn one_failure_cancels_earlier_successes() {
        let mut machine = Machine::new(2, 2, Some(false));
        for _ in 0..5 {
            assert_eq!(machine.result(Ok(())), None);
            assert_eq!(machine.result(fail()), None);
            assert_eq!(machine.reason(), Some("status 503"));
        }
    }

    #[test]
    fn lower_thresholds_apply_to_what_was_counted() {
        let mut machine = Machine::new(2, 5, Some(true));
        assert_eq!([machine.result(fail()), machine.result(fail())], [None, None]);
        machine.set_thresholds(2, 3);
        assert_eq!(machine.result(fail()), Some(Change::Down));
    }

    #[test]
    fn thresholds_of_zero_act_as_one() {
        let mut machine = Machine::new(0, 0, Some(true));
        assert_eq!(machine.result(fail()), Some(Change::Down));
        assert_eq!(machine.result(Ok(())), Some(Change::Up));
    }

    /// A machine as its documentation tells it: nothing is counted, all that has happened is looked at again.
    #[derive(Clone, Debug)]
    struct Told {
        thresholds: (u32, u32),
        initial: Option<bool>,
        /// Results, each with the thresholds of its time.
        history: Vec<(Result<(), Failure>, (u32, u32))>,
    }

    impl Told {
        /// The states before, between and after the results: unknown ends with the first, the others with enough in a row
        /// against them.
        fn states(&self) -> Vec<Option<bool>> {
            let mut states = vec![self.initial];
            for (at, (result, (rise, fall))) in self.history.iter().enumerate() {
                let state = states[at];
                let needed = if state == Some(true) { fall } else { rise };
                // In a row, and since the state began.
                let began = states.iter().rev().take_while(|before| **before == state).count();
                let row = self.history[..=at].iter().rev().take(began);
                let row = row.take_while(|(result, _)| Some(result.is_ok()) != state).count();
                let turns = state.is_none() || row >= (*needed).max(1) as usize;
                states.push(if turns { Some(result.is_ok()) } else { state });
            }
            states
        }

        fn healthy(&self) -> bool {
            self.states().last() == Some(&Some(true))
        }

        fn silent(&self) -> bool {
            let row = self.history.iter().rev();
            let row = row.take_while(|(result, _)| matches!(result, Err(failure) if failure.silent)).count();
            !self.healthy() && row >= self.thresholds.1.max(1) as usize
        }

        /// The latest failure, unless a success came that found it healthy or made it so.
        fn reason(&self) -> Option<&str> {
            let (mut reason, states) = (None, self.states());
            for (at, (result, _)) in self.history.iter().enumerate() {
                match result {
                    Err(failure) => reason = Some(failure.reason.as_str()),
                    Ok(()) if states[at + 1] == Some(true) => reason = None,
                    Ok(()) => {}
                }
            }
            reason
        }
    }

    proptest! {
        #[test]
        fn a_machine_does_what_is_told_of_it(
            initial in any::<Option<bool>>(),
            steps in prop::collection::vec((0..8_u8, 0..4_u32, 0..4_u32), 0..14),
            (rise, fall) in (0..4_u32, 0..4_u32),
        ) {
            let mut machine = Machine::new(rise, fall, initial);
            let mut told = Told { thresholds: (rise, fall), initial, history: Vec::new() };
            for (kind, rise, fall) in steps {
                let result = match kind {
                    0..3 => Ok(()),
                    3..5 => fail(),
                    5..7 => nothing(),
                    _ => {
                        machine.set_thresholds(rise, fall);
                        told.thresholds = (rise, fall);
                        continue;
                    }
                };
                told.history.push((result.clone(), told.thresholds));
                let change = match told.states()[told.history.len() - 1..] {
                    [before, after] if before == after => None,
                    [_, Some(true)] => Some(Change::Up),
                    _ => Some(Change::Down),
                };
                prop_assert_eq!(machine.result(result), change);
                prop_assert_eq!(machine.healthy(), told.healthy());
                prop_assert_eq!(machine.silent(), told.silent());
                prop_assert_eq!(machine.reason(), told.reason());
                prop_assert!(machine.known());
            }
            prop_assert_eq!(machine.known(), !told.history.is_empty());
            prop_assert_eq!(machine.healthy(), told.healthy());
        }
    }

    proptest! {
        /// Whatever happened before, as many equal results in a row as asked for decide, and one fewer after the
        /// opposite state does not.
        #[test]
        fn runs_of_equal_results_decide(
            history in prop::collection::vec(any::<bool>(), 0..40), rise in 1u32..6, fall in 1u32..6,
        ) {
            let mut machine = Machine::new(rise, fall, None);
            for ok in history {
                let before = machine.healthy();
                let change = machine.result(if ok { Ok(()) } else { fail() });
                match change {
                    Some(Change::Up) => prop_assert!(ok && machine.healthy()),
                    Some(Change::Down) => prop_assert!(!ok && !machine.healthy()),
                    None => prop_assert_eq!(before, machine.healthy()),
                }
            }
            for _ in 0..rise {
                machine.result(Ok(()));
            }
            prop_assert!(machine.healthy());
            for _ in 1..fall {
                machine.result(fail());
                prop_assert!(machine.healthy());
            }
            machine.result(fail());
            prop_assert!(!machine.healthy());
        }
    }
}

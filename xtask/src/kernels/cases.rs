//! What is run in a guest: tests of this repository that run on the machine itself too, with what each kernel is expected to do.

/// One line of the table.
pub(crate) struct Case {
    pub name: &'static str,
    pub runs: &'static [Run],
    /// Series on which this does not work, so that the agent must leave it out and say why. It fails where it falls back elsewhere, and
    /// where it does not fall back here.
    pub falls_back_on: &'static [&'static str],
    /// Series on which the agent's own trial decides anew each time, and either outcome is right: sockmap on 5.10 does not bound what it
    /// takes for a slow reader, which the trial sees unless the memory that all sockets may have (`net.ipv4.tcp_mem`) ends first.
    pub either_on: &'static [&'static str],
    /// Before the kernel's modules for socket diagnosis are loaded.
    pub before_modules: bool,
}

/// Tests of one program, by their whole names.
pub(crate) struct Run {
    pub program: &'static str,
    pub tests: &'static [&'static str],
    /// Only in a thorough run.
    thorough: bool,
}

const fn case(name: &'static str, runs: &'static [Run]) -> Case {
    Case {
        name,
        runs,
        falls_back_on: &[],
        either_on: &[],
        before_modules: false,
    }
}

const fn of(program: &'static str, tests: &'static [&'static str]) -> Run {
    Run {
        program,
        tests,
        thorough: false,
    }
}

/// Processes on nodes, of which the emulation makes half a minute: the case "an agent's life" does the same in one scene.
const fn thorough(tests: &'static [&'static str]) -> Run {
    Run {
        program: "nodes",
        tests,
        thorough: true,
    }
}

/// Which cases are run, and how much of each.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Choice<'a> {
    /// Only cases whose names contain these words.
    pub only: Option<&'a str>,
    /// Also what the others have in common, case by case.
    pub thorough: bool,
}

impl Choice<'_> {
    /// The cases that have something to run, in their order.
    pub(crate) fn cases(self) -> Vec<&'static Case> {
        let asked = |case: &&Case| self.only.is_none_or(|words| case.name.contains(words));
        let asked = CASES.iter().filter(asked);
        asked
            .filter(|case| self.runs(case).next().is_some())
            .collect()
    }

    pub(crate) fn runs(self, case: &Case) -> impl Iterator<Item = &'static Run> {
        let runs = case.runs.iter();
        runs.filter(move |run| self.thorough || !run.thorough)
    }
}

/// In the order in which they run.
pub(crate) const CASES: &[Case] = &[
    Case {
        before_modules: true,
        ..case(
            "retiring without its modules",
            &[
                of("kernel", &["retire::without_its_modules_it_says_so"]),
                thorough(&[
                    "change::without_socket_diagnosis_connections_of_before_stay_and_it_says_so",
                ]),
            ],
        )
    },
    case(
        "an agent's life: idle, armed, retiring, SIGSTOP, take-over, kill -9, removal",
        &[of("nodes", &["life::from_its_start_to_its_removal"])],
    ),
    Case {
        falls_back_on: &["5.10"],
        ..case("doctor", &[of("kernel", &["doctor::it_says_what_works"])])
    },
    case(
        "steering idle",
        &[thorough(&[
            "agent::while_idle_clients_reach_the_server_itself",
        ])],
    ),
    case(
        "steering armed, from the node and from others",
        &[thorough(&[
            "agent::while_armed_every_new_connection_reaches_the_agent",
        ])],
    ),
    case(
        "steering, IPv4 and IPv6",
        &[
            of(
                "kernel",
                &[
                    "steer::the_guard_decides_who_gets_new_connections",
                    "steer::families_have_slots_of_their_own",
                    "steer::the_agents_own_connections_and_its_peers_pass",
                ],
            ),
            thorough(&["ipv6::clients_of_both_families_are_steered"]),
        ],
    ),
    case(
        "fail-open: kill -9",
        &[
            of("kernel", &["steer::a_listener_that_is_gone_is_passed_by"]),
            thorough(&["agent::a_killed_agent_is_out_of_the_way_and_the_next_one_takes_its_place"]),
        ],
    ),
    case(
        "fail-open: SIGSTOP",
        &[thorough(&[
            "agent::a_stopped_agent_is_out_of_the_way_within_a_second",
        ])],
    ),
    case(
        "fail-open: full queue",
        &[of(
            "kernel",
            &[
                "steer::no_more_is_steered_than_the_accept_queue_takes",
                "steer::a_connection_refused_by_a_full_queue_reaches_the_server_on_its_next_try",
            ],
        )],
    ),
    case(
        "pins: restart",
        &[of(
            "kernel",
            &[
                "pins::an_agent_that_is_killed_is_passed_by_and_followed",
                "pins::stale_pins_are_attached_anew",
            ],
        )],
    ),
    case(
        "pins: take-over",
        &[
            of(
                "kernel",
                &["pins::a_second_agent_takes_over_from_the_first"],
            ),
            thorough(&["change::another_agent_takes_over_and_nobody_is_refused"]),
        ],
    ),
    case(
        "pins: ABI change",
        &[of(
            "kernel",
            &[
                "pins::pins_of_another_abi_are_refused_by_readers_and_replaced_by_agents",
                "pins::pins_of_another_program_are_replaced_under_the_same_link",
            ],
        )],
    ),
    case(
        "capabilities",
        &[of(
            "kernel",
            &["pins::three_capabilities_are_enough_and_needed"],
        )],
    ),
    case(
        "retiring connections of before",
        &[
            of(
                "kernel",
                &[
                    "retire::the_silent_one_and_no_other",
                    "retire::whether_it_works_here_is_tried",
                ],
            ),
            thorough(&["change::connections_of_before_are_retired_in_a_silent_moment"]),
        ],
    ),
    Case {
        either_on: &["5.10"],
        ..case(
            "splice: sockmap, 100 MB and a slow reader",
            &[of("splicing", &["modes::sockmap"])],
        )
    },
    Case {
        either_on: &["5.10"],
        ..case(
            "relayed through an agent: auto and sockmap",
            &[of(
                "relay",
                &[
                    "splice::auto_measures_and_then_relays_in_the_best_mode",
                    "splice::sockmap_is_used_where_it_works_and_refused_where_not",
                ],
            )],
        )
    },
    case(
        "splice: splice(2), 100 MB and a slow reader",
        &[of("splicing", &["modes::splice"])],
    ),
    case(
        "splice: copy, 100 MB and a slow reader",
        &[of("splicing", &["modes::copy"])],
    ),
    Case {
        falls_back_on: &["5.10"],
        ..case(
            "short-cut",
            &[of("kernel", &["shortcut::it_works_or_says_why_not"])],
        )
    },
    case(
        "uninstall leaves nothing",
        &[
            of("kernel", &["pins::nothing_is_left_after_uninstall"]),
            thorough(&["agent::pins_tell_without_an_agent_and_go_when_told"]),
        ],
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_is_in_a_thorough_run_and_has_tests() {
        let thorough = Choice {
            only: None,
            thorough: true,
        };
        assert_eq!(thorough.cases().len(), CASES.len());
        for case in Choice::default().cases() {
            assert!(Choice::default().runs(case).all(|run| !run.thorough));
        }
        assert!(Choice::default().cases().len() < CASES.len());
    }
}

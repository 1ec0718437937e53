//! The rules of an intermediary, each with the tests that prove it: raw bytes in, raw bytes out, from clients of HTTP/1 and
//! HTTP/2 to applications of both. Numbers and levels (M MUST, S SHOULD, O allowed, X not in an RFC but needed) are those of
//! our own collection, the section is the RFC's. Tests of other themes are named where they prove a rule already.

mod bugs;
mod frames;
mod framing;
mod head;
mod hop;
mod order;
pub mod raw;

/// Rule, in a few words, where it stands, and the tests.
const RULES: [(u8, &str, &str, &[&str]); 64] = [
    (1, "several different lengths: refused", "9112 6.3", &["ambiguous_framing_is_refused"]),
    (2, "two equal lengths: refused", "9112 6.3", &["two_equal_lengths_are_refused"]),
    (
        3,
        "a length is plain digits that do not overflow",
        "9110 8.6",
        &["ambiguous_framing_is_refused", "an_empty_or_signed_length_is_refused"],
    ),
    (
        4,
        "a length beside a coding: refused, and the end",
        "9112 6.1",
        &["a_length_beside_a_coding_is_refused_and_ends_the_connection"],
    ),
    (
        5,
        "a last coding that is not chunked: 400, and the end",
        "9112 6.3",
        &["ambiguous_framing_is_refused", "a_coding_that_is_malformed_or_not_chunked_at_the_end_is_refused"],
    ),
    (6, "an unknown coding: 501", "9112 6.1", &["a_coding_nobody_knows_is_not_implemented"]),
    (7, "one chunked, and one way to frame", "9112 6.1", &["a_body_is_framed_once_whatever_framed_it_before"]),
    (
        8,
        "names of codings ignore case",
        "9112 7",
        &["a_body_is_framed_once_whatever_framed_it_before", "a_get_with_chunks_keeps_its_body"],
    ),
    (9, "a coding in HTTP/1.0: refused", "9112 6.1", &["a_coding_in_http_1_0_is_refused"]),
    (
        10,
        "chunk sizes are hexadecimal and do not overflow",
        "9112 7.1",
        &["malformed_chunks_are_refused_and_never_make_a_whole_body", "chunk_sizes_that_overflow_are_refused"],
    ),
    (
        11,
        "chunk lines and data end with CRLF",
        "9112 7.1",
        &["malformed_chunks_are_refused_and_never_make_a_whole_body"],
    ),
    (12, "chunk extensions are ignored, and bounded", "9112 7.1.1", &["chunk_extensions_are_dropped_and_bounded"]),
    (13, "an unfinished body never becomes whole", "9112 8", &["a_body_that_stops_in_the_middle_never_becomes_whole"]),
    (
        14,
        "no length and no coding: no body",
        "9112 6.3",
        &["a_request_without_length_or_coding_has_no_body", "a_request_without_a_body_has_none_behind_either"],
    ),
    (
        15,
        "trailers are not merged into headers",
        "9110 6.5.1",
        &["trailers_stay_trailers_and_lose_what_they_may_not_carry"],
    ),
    (
        16,
        "framing, routing and credentials in trailers are dropped",
        "9110 6.5.1",
        &["trailers_stay_trailers_and_lose_what_they_may_not_carry"],
    ),
    (17, "a bare CR: refused", "9112 2.2", &["malformed_heads_are_refused", "every_refusal_of_a_head_says_why"]),
    (18, "a bare LF: refused", "9112 2.2", &["a_bare_line_feed_ends_no_line"]),
    (
        19,
        "white space before the first field: refused",
        "9112 2.2",
        &["malformed_heads_are_refused", "every_refusal_of_a_head_says_why"],
    ),
    (
        20,
        "space before the colon: 400, and taken out of answers",
        "9112 5.1",
        &["malformed_heads_are_refused", "answers_that_are_malformed_become_502_whoever_asked"],
    ),
    (
        21,
        "folded lines: 400, and not as such from answers",
        "9112 5.2",
        &["malformed_heads_are_refused", "answers_that_are_malformed_become_502_whoever_asked"],
    ),
    (
        22,
        "NUL, CR, LF in a value: refused",
        "9110 5.5",
        &["every_refusal_of_a_head_says_why", "answers_that_are_malformed_become_502_whoever_asked"],
    ),
    (
        23,
        "bytes 80 to FF in a value pass",
        "9110 5.5",
        &["lines_of_one_name_keep_their_order_and_bytes_beyond_ascii_both_ways"],
    ),
    (
        24,
        "lines of one name keep their order",
        "9110 5.3",
        &["lines_of_one_name_keep_their_order_and_bytes_beyond_ascii_both_ways"],
    ),
    (25, "no Host, two, or an invalid one: 400", "9112 3.2", &["malformed_heads_are_refused"]),
    (26, "an absolute target replaces Host", "9112 3.2.2", &["an_absolute_targets_authority_is_the_only_host_behind"]),
    (27, "absolute targets are taken", "9112 3.2.2", &["an_absolute_targets_authority_is_the_only_host_behind"]),
    (
        28,
        "the asterisk is for OPTIONS",
        "9112 3.2.4",
        &["methods_that_would_make_a_tunnel_or_a_mirror_are_refused", "malformed_heads_are_refused"],
    ),
    (29, "space in a target: 400", "9112 3.2", &["malformed_heads_are_refused"]),
    (
        30,
        "8000 bytes of target pass; above our limit: 414",
        "9110 4.1",
        &["a_target_of_8000_bytes_passes_and_one_above_the_limit_gets_414"],
    ),
    (
        31,
        "the version is well-formed; other ones 505",
        "9112 2.3",
        &["a_well_formed_version_that_is_not_ours_gets_505_and_a_malformed_one_400"],
    ),
    (
        32,
        "methods have case, and unknown ones pass",
        "9110 9.1",
        &["targets_methods_and_hosts_arrive_as_they_were_sent"],
    ),
    (33, "CONNECT is refused", "", &["connect_and_trace_go_nowhere"]),
    (
        34,
        "path and query are not rewritten",
        "9110 7.7",
        &["targets_methods_and_hosts_arrive_as_they_were_sent", "paths_and_queries_pass_as_they_are"],
    ),
    (
        35,
        "Connection, and what it names, is dropped",
        "9110 7.6.1",
        &["fields_of_one_connection_stay_on_it_in_both_directions"],
    ),
    (
        36,
        "but not what the proxy relies on",
        "CVE-2024-45410",
        &[
            "no_client_can_have_the_proxys_own_fields_removed",
            "naming_a_field_in_connection_does_not_remove_what_the_proxy_relies_on",
        ],
    ),
    (
        37,
        "Keep-Alive, Proxy-Connection, TE, Upgrade are dropped",
        "9110 7.6.1",
        &["fields_of_one_connection_stay_on_it_in_both_directions", "a_client_that_takes_trailers_may_say_so"],
    ),
    (38, "from answers, too", "9110 7.6.1", &["fields_of_one_connection_stay_on_it_in_both_directions"]),
    (
        39,
        "Upgrade only with Connection: upgrade",
        "9110 7.8",
        &["an_upgrade_that_is_not_both_asked_for_and_meant_is_not_passed_on"],
    ),
    (
        40,
        "only websocket is upgraded to, never h2c",
        "",
        &["an_upgrade_that_is_not_both_asked_for_and_meant_is_not_passed_on"],
    ),
    (
        41,
        "a tunnel only after a 101 that was asked for",
        "9110 15.2.2",
        &["a_101_nobody_asked_for_is_a_502_and_no_tunnel", "a_200_with_upgrade_is_an_answer_like_any_other"],
    ),
    (42, "what follows Connection: close is ignored", "9112 9.6", &["what_follows_connection_close_is_ignored"]),
    (
        43,
        "HTTP/1.0 closes and gets no chunks",
        "9112 9.3",
        &["a_client_of_http_1_0_may_keep_its_connection", "nothing_is_ever_sent_in_chunks_to_http_1_0"],
    ),
    (
        44,
        "pipelined requests are answered in order",
        "9112 9.3.2",
        &[
            "pipelined_requests_are_answered_in_their_order",
            "answers_keep_the_order_of_pipelined_requests_whatever_they_take",
        ],
    ),
    (
        45,
        "an unread body is read, or the connection closed",
        "9112 9.3",
        &[
            "what_was_not_read_of_a_refused_body_is_no_next_request",
            "a_body_that_outlasts_its_answer_does_not_reach_the_next_request",
        ],
    ),
    (
        46,
        "Expect is answered or passed on; no 100 to HTTP/1.0",
        "9110 10.1.1",
        &["a_client_that_expects_100_is_told_to_go_on", "only_clients_of_http_1_1_and_2_are_told_to_continue"],
    ),
    (
        47,
        "1xx pass, but for a 100 of our own",
        "9110 15.2",
        &["early_hints_reach_the_client_before_the_answer", "a_100_of_the_application_is_not_passed_on_twice"],
    ),
    (
        48,
        "Max-Forwards 0 is answered here, else counted down",
        "9110 7.6.2",
        &["options_with_no_forwards_left_are_answered_here"],
    ),
    (49, "Via on what is forwarded", "9110 7.6.3", &["every_request_is_marked_with_via_in_the_version_it_came_in"]),
    (
        50,
        "no body on HEAD, 1xx, 204, 304",
        "9112 6.3",
        &["no_answer_has_a_body_that_may_have_none", "a_body_that_must_not_be_there_is_no_next_answer"],
    ),
    (
        51,
        "invalid framing from behind: 502",
        "9112 6.3",
        &["answers_that_are_malformed_become_502_whoever_asked", "an_answer_of_two_truths_is_refused_or_has_one"],
    ),
    (
        52,
        "a cut from behind shows",
        "9112 8",
        &[
            "a_cut_answer_is_seen_as_cut_in_every_combination",
            "an_answer_that_is_cut_in_its_chunks_or_trailers_is_no_whole_one",
            "an_answers_length_that_is_not_the_sum_of_its_data_is_a_cut_answer",
        ],
    ),
    (
        53,
        "bytes after an answer end the connection behind",
        "",
        &["bytes_after_an_answer_never_become_the_next_one", "bytes_on_an_idle_connection_are_nobodys_answer"],
    ),
    (
        54,
        "what may have been done is not repeated",
        "9110 9.2.2",
        &["a_request_that_may_have_been_done_is_repeated_only_if_it_is_safe_to"],
    ),
    (
        55,
        "a safe request is repeated once",
        "9112 9.3.1",
        &[
            "a_request_that_may_have_been_done_is_repeated_only_if_it_is_safe_to",
            "a_stream_that_the_application_refused_is_sent_again",
        ],
    ),
    (
        56,
        "a malformed request resets its stream and goes nowhere",
        "9113 8.1.1",
        &[
            "names_and_values_that_http_2_does_not_allow_reset_the_stream",
            "a_request_without_the_end_of_its_fields_goes_nowhere",
        ],
    ),
    (
        57,
        "names in lower case, values without CR, LF, NUL, outer space",
        "9113 8.2.1",
        &["names_and_values_that_http_2_does_not_allow_reset_the_stream"],
    ),
    (
        58,
        "no fields of a connection",
        "9113 8.2.2",
        &["fields_of_a_connection_reset_a_stream", "answers_of_http_2_that_are_malformed_become_502_or_a_reset"],
    ),
    (
        59,
        "pseudo-fields once, known, first, not in trailers",
        "9113 8.3",
        &["pseudo_fields_are_known_once_first_and_complete", "pseudo_fields_in_trailers_go_nowhere"],
    ),
    (60, "a length is the sum of DATA", "9113 8.1.1", &["a_length_that_is_not_the_sum_of_data_resets_the_stream"]),
    (61, ":authority is the one Host", "9113 8.3.1", &["exactly_one_host_goes_on_and_it_is_the_authority"]),
    (62, "cookie crumbs are joined", "9113 8.2.3", &["cookie_crumbs_become_one_line_of_http_1"]),
    (
        63,
        "no 101",
        "9113 8.6",
        &["http_2_knows_no_101_and_no_upgrade", "extended_connect_is_neither_announced_nor_taken"],
    ),
    (
        64,
        "header lists, continuations, resets and control frames are bounded",
        "9113 10.5",
        &[
            "a_header_list_above_the_limit_is_refused",
            "more_fields_than_the_limit_are_refused",
            "a_flood_of_continuations_is_stopped",
            "a_flood_of_requests_that_are_reset_at_once_does_not_flood_the_application",
            "a_flood_that_makes_the_proxy_reset_does_not_flood_the_application",
            "floods_of_control_frames_cost_little",
            "streams_beyond_the_announced_limit_are_refused_and_not_queued",
        ],
    ),
];

/// A bug of others, and the tests that would find it here; or why it cannot be here.
const BUGS: [(&str, Result<&[&str], &str>); 31] = [
    (
        "CVE-2026-2833 Pingora: bytes after an Upgrade request passed before a 101",
        Ok(&["bytes_after_an_upgrade_request_do_not_pass_before_a_101"]),
    ),
    (
        "CVE-2026-2835 Pingora: request bodies that end with the connection",
        Ok(&["a_request_of_http_1_0_has_no_body_that_ends_with_the_connection"]),
    ),
    ("CVE-2026-2836 Pingora: a cache's key without the host", Err("there is no cache")),
    (
        "CVE-2025-4366 Pingora: answered from the cache without draining the body",
        Ok(&["what_was_not_read_of_a_refused_body_is_no_next_request"]),
    ),
    (
        "Pingora issue 945: a length beside a coding is served",
        Ok(&["a_length_beside_a_coding_is_refused_and_ends_the_connection"]),
    ),
    (
        "CVE-2024-23326 Envoy: a 200 with Upgrade taken for a switch",
        Ok(&["a_200_with_upgrade_is_an_answer_like_any_other"]),
    ),
    ("CVE-2026-26311 Envoy: DATA after a reset", Ok(&["what_comes_after_a_reset_changes_nothing"])),
    ("CVE-2021-32778 Envoy: quadratic time for resets", Ok(&["thousands_of_resets_take_no_quadratic_time"])),
    ("CVE-2023-44487: rapid reset", Ok(&["a_flood_of_requests_that_are_reset_at_once_does_not_flood_the_application"])),
    ("CVE-2025-8671: made to reset", Ok(&["a_flood_that_makes_the_proxy_reset_does_not_flood_the_application"])),
    (
        "RUSTSEC-2023-0034 h2: HEADERS and RST_STREAM faster than they are accepted",
        Ok(&["a_flood_of_requests_that_are_reset_at_once_does_not_flood_the_application"]),
    ),
    (
        "RUSTSEC-2024-0003 h2: resets for errors queue while the window is closed",
        Ok(&[
            "a_flood_that_makes_the_proxy_reset_does_not_flood_the_application",
            "a_flood_of_malformed_requests_costs_little",
        ]),
    ),
    ("RUSTSEC-2024-0332 h2, CVE-2023-45288 Go: a flood of CONTINUATION", Ok(&["a_flood_of_continuations_is_stopped"])),
    (
        "RUSTSEC-2020-0008 hyper: the body of a GET read as the next request",
        Ok(&["a_get_may_have_a_body_and_it_is_no_next_request"]),
    ),
    (
        "RUSTSEC-2021-0020 hyper: several lines of codings taken for chunked",
        Ok(&["a_coding_that_is_malformed_or_not_chunked_at_the_end_is_refused"]),
    ),
    ("RUSTSEC-2021-0078 hyper: a length of +5", Ok(&["an_empty_or_signed_length_is_refused"])),
    ("RUSTSEC-2021-0079 hyper: a chunk size that overflows", Ok(&["chunk_sizes_that_overflow_are_refused"])),
    (
        "hyper 4124: a length before a coding is kept",
        Ok(&[
            "an_answer_of_two_truths_is_refused_or_has_one",
            "a_length_beside_a_coding_is_refused_and_ends_the_connection",
        ]),
    ),
    (
        "RUSTSEC-2024-0399 rustls: a ClientHello in pieces",
        Err("fixed in the release that is required here; the tests of TLS send one in pieces"),
    ),
    (
        "RUSTSEC-2024-0336 rustls: close_notify in a handshake loops",
        Err("of the blocking interface, which is not used; fixed in the release that is required here"),
    ),
    (
        "RUSTSEC-2020-0019 tokio-rustls: buffering without bound",
        Err("fixed long before the release that is required here"),
    ),
    (
        "CVE-2023-25725 HAProxy: an empty name cut the list of fields",
        Ok(&["an_empty_or_very_long_field_name_does_not_shift_the_others"]),
    ),
    ("CVE-2023-40225 HAProxy: an empty length is passed on", Ok(&["an_empty_or_signed_length_is_refused"])),
    (
        "CVE-2021-40346 HAProxy: a long name overflows its length",
        Ok(&["an_empty_or_very_long_field_name_does_not_shift_the_others"]),
    ),
    (
        "CVE-2025-22871 Go: a bare LF in the line of a chunk's size",
        Ok(&["malformed_chunks_are_refused_and_never_make_a_whole_body", "chunk_sizes_that_overflow_are_refused"]),
    ),
    ("GO-2023-2382 Go: huge chunk extensions", Ok(&["chunk_extensions_are_dropped_and_bounded"])),
    (
        "CVE-2024-24791 Go: Expect spoils a reused connection",
        Ok(&["an_unread_expectation_does_not_spoil_a_reused_connection"]),
    ),
    (
        "CVE-2024-45410, CVE-2021-32813, CVE-2026-29054 Traefik: Connection removes forwarding fields",
        Ok(&["no_client_can_have_the_proxys_own_fields_removed"]),
    ),
    (
        "CVE-2026-71324 Traefik: CONNECT poisons pooled connections",
        Ok(&["a_connect_does_not_poison_the_connections_behind"]),
    ),
    ("CVE-2026-88011 Traefik: an alias with a dot survives", Ok(&["a_name_with_a_dot_or_underscore_is_another_field"])),
    (
        "CVE-2026-58055 nghttpx, CVE-2026-89044 netty, CVE-2022-1705 Go: an Upgrade with a body; a coding that is malformed",
        Ok(&[
            "an_upgrade_with_a_body_keeps_its_body",
            "a_coding_that_is_malformed_or_not_chunked_at_the_end_is_refused",
        ]),
    ),
];

/// The names of all tests with sockets, read from the source.
fn tests() -> Vec<String> {
    fn collect(folder: &std::path::Path, names: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, names);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let source = std::fs::read_to_string(path).unwrap();
                let mut marked = false;
                for line in source.lines() {
                    marked |= line == "#[tokio::test]" || line == "#[test]";
                    let name = line.trim_start_matches("async ").strip_prefix("fn ");
                    if let Some(name) = name.and_then(|rest| rest.split('(').next())
                        && std::mem::take(&mut marked)
                    {
                        names.push(name.to_owned());
                    }
                }
            }
        }
    }
    let mut names = Vec::new();
    collect(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it"), &mut names);
    names
}

#[test]
fn every_rule_and_every_bug_has_a_test_that_exists() {
    let known = tests();
    for (n, (number, rule, _, proofs)) in RULES.iter().enumerate() {
        assert_eq!(usize::from(*number), n + 1, "the rules are in order and complete");
        assert!(!proofs.is_empty(), "nothing proves rule {number}: {rule}");
    }
    let of_bugs = BUGS.iter().filter_map(|(_, proof)| proof.ok());
    for name in RULES.iter().map(|(.., proofs)| *proofs).chain(of_bugs).flatten() {
        assert!(known.iter().any(|test| test == name), "there is no test called {name}");
    }
    for (bug, proof) in BUGS {
        assert!(proof.map_or_else(|why| !why.is_empty(), |proofs| !proofs.is_empty()), "{bug}");
    }
}

#[test]
fn every_test_of_this_theme_proves_a_rule_or_finds_a_bug() {
    let named: Vec<&str> = RULES
        .iter()
        .flat_map(|(.., proofs)| *proofs)
        .chain(BUGS.iter().filter_map(|(_, proof)| proof.ok()).flatten())
        .copied()
        .collect();
    // What is promised beyond the rules.
    let beyond = [
        "an_empty_line_before_a_request_is_no_request",
        "what_is_refused_behind_a_good_request_is_answered_after_it",
        "a_refused_head_waits_for_the_answer_before_it",
        "one_cut_stream_does_not_touch_its_neighbours",
    ];
    let sources = [
        include_str!("rules/bugs.rs"),
        include_str!("rules/frames.rs"),
        include_str!("rules/framing.rs"),
        include_str!("rules/head.rs"),
        include_str!("rules/hop.rs"),
        include_str!("rules/order.rs"),
    ];
    for source in sources {
        for (at, _) in source.match_indices("#[tokio::test]\nasync fn ") {
            let name = source[at..].split_once("fn ").unwrap().1.split('(').next().unwrap();
            assert!(named.contains(&name) || beyond.contains(&name), "{name} stands for nothing");
        }
    }
}

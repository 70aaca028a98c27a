use super::*;

/// What the fuzzer begins with.
#[test]
fn seeds() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fuzz/seeds/requests");
    let mut count = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let seed = std::fs::read(file.unwrap().path()).unwrap();
        for face in 0..3u8 {
            let mut seed = seed.clone();
            seed[0] = face;
            fuzz_requests(&seed);
        }
        count += 1;
    }
    assert!(count >= 10);
}

#[test]
fn requests_of_every_form() {
    for face in 0..3u8 {
        for names in [0u8, 15] {
            let plain = b"GET /api HTTP/1.1\r\nhost: a\r\nX-Remote-User: root\r\nx_custom_group: system:masters\r\nConnection: X-Remote-Group\r\n\r\n";
            fuzz_requests(&[&[face, 0, names, 0][..], plain].concat());
            for form in [2u8, 3] {
                // Each known name with a value, as a header and as a trailer.
                let fields: Vec<u8> = (0..11u8)
                    .flat_map(|n| [n, 4, b'r', b'o', b'o', b't'])
                    .collect();
                let more: Vec<u8> = (9..20u8)
                    .flat_map(|n| [n, 4, b'e', b'v', b'i', b'l'])
                    .collect();
                let data = [&[face, form, names, 0, 11][..], &fields, &[11], &more].concat();
                fuzz_requests(&data);
                let data = [
                    &[face, form, names, 1, 2, 7][..],
                    b"x-other",
                    &[11],
                    &more,
                    &[11],
                    &fields,
                ]
                .concat();
                fuzz_requests(&data);
            }
        }
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
    #[test]
    fn requests_of_any_bytes(data in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
        fuzz_requests(&data);
    }
}

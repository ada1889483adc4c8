use hickory_proto::op::{Header, Message, Query, ResponseCode};
use hickory_proto::rr::RecordType;
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

use super::super::additional::Additional;
use super::*;

const NOW: u64 = 1_795_000_000;

fn signer(name: &str, secret: &[u8]) -> TSigner {
    TSigner::new(secret.to_vec(), TsigAlgorithm::HmacSha256, Name::from_ascii(name).unwrap(), FUDGE).unwrap()
}

fn keys() -> Keyring {
    Keyring([(LowerName::new(&Name::from_ascii("lb.").unwrap()), signer("lb.", b"right"))].into())
}

fn question(by: &TSigner, at: u64) -> (Vec<u8>, hickory_proto::rr::TSigVerifier) {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii("example.org.").unwrap(), RecordType::AXFR));
    let verifier = message.finalize(by, at).unwrap().unwrap();
    (message.to_vec().unwrap(), verifier)
}

/// An answer without records, with the id of a question.
fn answer(question: &[u8]) -> Vec<u8> {
    let mut answer = question[..12].to_vec();
    answer[2] = 0x84;
    answer[4..].fill(0);
    answer
}

/// The packet's signature, as the server reads and checks it.
fn check(packet: &[u8]) -> Signed {
    let mut decoder = BinDecoder::new(packet);
    Header::read(&mut decoder).unwrap();
    Query::read(&mut decoder).unwrap();
    let count = u16::from_be_bytes([packet[10], packet[11]]);
    let (at, record) = Additional::read(&mut decoder, count).unwrap().signature.unwrap();
    Signed::check(&keys(), packet, at, record, NOW)
}

fn error_of(by: &TSigner, at: u64) -> (Option<TsigError>, Message) {
    let (packet, _) = question(by, at);
    let mut signed = check(&packet);
    let mut told = answer(&packet);
    signed.sign(&mut told, NOW).unwrap();
    (signed.error(), Message::from_vec(&told).unwrap())
}

#[test]
fn a_conversation_of_several_answers_is_signed_as_its_asker_verifies_it() {
    let (packet, mut verifier) = question(&signer("LB.", b"right"), NOW - 200);
    let mut signed = check(&packet);
    assert_eq!((signed.error(), signed.key().to_ascii().as_str()), (None, "LB."));
    for second in 0..3 {
        let mut told = answer(&packet);
        let length = told.len();
        signed.sign(&mut told, NOW - 100 + second).unwrap();
        assert!(told.len() - length <= signed.room().into(), "{} bytes", told.len() - length);
        verifier.verify(&told).unwrap();
    }
}

#[test]
fn what_is_wrong_is_told_in_the_order_of_the_rfc() {
    let (error, told) = error_of(&signer("other.", b"right"), NOW);
    let tsig = told.signature.unwrap();
    assert_eq!((error, tsig.data.error), (Some(TsigError::BadKey), Some(TsigError::BadKey)));
    assert!(tsig.data.mac.is_empty(), "not signed");
    // The wrong secret says more than the wrong time.
    let (error, told) = error_of(&signer("lb.", b"wrong"), 0);
    assert_eq!(error, Some(TsigError::BadSig));
    assert!(told.signature.unwrap().data.mac.is_empty(), "not signed");
    for (at, right) in
        [(NOW - 300, true), (NOW + 300, true), (NOW - 301, false), (NOW + 301, false), (0, false)]
    {
        let (error, told) = error_of(&signer("lb.", b"right"), at);
        let tsig = told.signature.unwrap().data;
        assert_eq!(tsig.mac.len(), 32, "signed in both cases");
        match right {
            true => assert_eq!((error, tsig.other.len()), (None, 0), "at {at}"),
            false => {
                assert_eq!((error, tsig.time), (Some(TsigError::BadTime), at));
                assert_eq!(tsig.other, NOW.to_be_bytes()[2..], "what the time is here");
            }
        }
    }
    assert_eq!(told.metadata.response_code, ResponseCode::NoError);
}

#[test]
fn an_algorithm_that_the_key_does_not_have_is_another_key() {
    let by =
        TSigner::new(b"right".to_vec(), TsigAlgorithm::HmacSha512, Name::from_ascii("lb.").unwrap(), 300);
    assert_eq!(error_of(&by.unwrap(), NOW).0, Some(TsigError::BadKey));
}

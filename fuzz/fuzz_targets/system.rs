//! Payloads of the system protocols.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::advert::Advert;
use wire::system::{
    DownloadRequest, DownloadResponse, Poke, TranslationRequest, TranslationResponse, decode, encode,
};

fuzz_target!(|bytes: &[u8]| {
    if let Some(m) = Advert::decode(bytes) {
        let (again, told) = m.clone().encode(m.known.iter().copied());
        assert_eq!((Advert::decode(&again), told), (Some(m.clone()), m.known.len()));
    }
    if let Some(m) = decode::<Poke>(bytes) {
        assert_eq!(decode(&encode(&m)), Some(m));
    }
    if let Some(m) = decode::<TranslationRequest>(bytes) {
        assert_eq!(decode(&encode(&m)), Some(m));
    }
    if let Some(m) = decode::<TranslationResponse>(bytes) {
        assert_eq!(decode(&encode(&m)), Some(m));
    }
    if let Some(m) = decode::<DownloadRequest>(bytes) {
        assert_eq!(decode(&encode(&m)), Some(m));
    }
    if let Some(m) = decode::<DownloadResponse<'_>>(bytes) {
        let again = encode(&m);
        assert_eq!(decode::<DownloadResponse<'_>>(&again), Some(m));
    }
});

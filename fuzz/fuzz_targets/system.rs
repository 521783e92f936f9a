//! Payloads of the system protocols.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::system::{
    DownloadRequest, DownloadResponse, TranslationRequest, TranslationResponse, decode, encode,
};

fuzz_target!(|bytes: &[u8]| {
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

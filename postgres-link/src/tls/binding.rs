//! What a login is bound to: `tls-server-end-point` (RFC 5929, section 4), the hash of the server's certificate
//! by the hash function of its signature; SHA-256 in place of MD5 and SHA-1.

use ring::digest::{Algorithm, SHA256, SHA384, SHA512, digest};

/// The hash of a certificate (DER); `None` where the RFC defines none, as for Ed25519, whose signature has no
/// hash function of its own.
pub fn server_end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let algorithm = hash_function(certificate)?;
    Some(digest(algorithm, certificate).as_ref().to_vec())
}

const SEQUENCE: u8 = 0x30;
const OBJECT_ID: u8 = 0x06;
/// `hashAlgorithm` in the parameters of RSASSA-PSS.
const FIRST: u8 = 0xA0;

/// By signature algorithm; the object identifiers as they are encoded, their last part apart.
fn hash_function(certificate: &[u8]) -> Option<&'static Algorithm> {
    /// 1.2.840.113549.1.1
    const PKCS_1: &[u8] = &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01];
    /// 1.2.840.10045.4.3, ecdsa-with-SHA2
    const ECDSA: &[u8] = &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04, 0x03];
    /// 1.2.840.10045.4.1, ecdsa-with-SHA1
    const ECDSA_SHA1: &[u8] = &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04, 0x01];
    // Certificate ::= SEQUENCE { tbsCertificate, signatureAlgorithm, signatureValue } (RFC 5280, section 4.1)
    let (body, _) = element(certificate, SEQUENCE)?;
    let (_, behind_tbs) = element(body, SEQUENCE)?;
    let (signature, _) = element(behind_tbs, SEQUENCE)?;
    let (id, parameters) = element(signature, OBJECT_ID)?;
    if id == ECDSA_SHA1 {
        return Some(&SHA256);
    }
    let (last, family) = id.split_last()?;
    match (family, last) {
        // md5, sha1, sha256
        (PKCS_1, 4 | 5 | 11) | (ECDSA, 2) => Some(&SHA256),
        (PKCS_1, 12) | (ECDSA, 3) => Some(&SHA384),
        (PKCS_1, 13) | (ECDSA, 4) => Some(&SHA512),
        (PKCS_1, 10) => of_pss(parameters),
        _ => None,
    }
}

/// RSASSA-PSS names its hash function in its parameters; SHA-1 where it does not (RFC 4055, section 3.1).
fn of_pss(parameters: &[u8]) -> Option<&'static Algorithm> {
    /// 2.16.840.1.101.3.4.2
    const SHA_2: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02];
    let (fields, _) = element(parameters, SEQUENCE)?;
    let Some((named, _)) = element(fields, FIRST) else { return Some(&SHA256) };
    let (algorithm, _) = element(named, SEQUENCE)?;
    let (id, _) = element(algorithm, OBJECT_ID)?;
    let (last, family) = id.split_last()?;
    match (family, last) {
        (SHA_2, 1) => Some(&SHA256),
        (SHA_2, 2) => Some(&SHA384),
        (SHA_2, 3) => Some(&SHA512),
        _ => None,
    }
}

/// The content of the element of this tag at the front, and what follows it (DER: definite lengths only).
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7F => (usize::from(first), rest),
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7F))?;
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    if found != tag {
        return None;
    }
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = u16::try_from(content.len()).unwrap().to_be_bytes();
        [&[tag, 0x82], &length[..], content].concat()
    }

    /// As much of a certificate as matters here; the part before the algorithm is long enough for a length of
    /// two bytes.
    fn certificate(algorithm: &[u8], parameters: &[u8]) -> Vec<u8> {
        let algorithm = tlv(SEQUENCE, &[tlv(OBJECT_ID, algorithm), parameters.to_vec()].concat());
        tlv(SEQUENCE, &[tlv(SEQUENCE, &[7; 300]), algorithm, tlv(3, &[0; 64])].concat())
    }

    const RSA: [u8; 9] = [0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0];
    const ECDSA: [u8; 8] = [0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04, 0x03, 0];

    fn ending<const N: usize>(mut id: [u8; N], last: u8) -> [u8; N] {
        id[N - 1] = last;
        id
    }

    #[test]
    fn the_hash_is_that_of_the_signature() {
        for (algorithm, length) in [
            (&ending(RSA, 4)[..], 32),
            (&ending(RSA, 5), 32),
            (&ending(RSA, 11), 32),
            (&ending(RSA, 12), 48),
            (&ending(RSA, 13), 64),
            (&ending(ECDSA, 2), 32),
            (&ending(ECDSA, 3), 48),
            (&ending(ECDSA, 4), 64),
        ] {
            let certificate = certificate(algorithm, &[5, 0]);
            let hash = server_end_point(&certificate).unwrap();
            assert_eq!(hash.len(), length, "{algorithm:x?}");
            let function = [&SHA256, &SHA384, &SHA512][length / 16 - 2];
            let function = if length == 64 { &SHA512 } else { function };
            assert_eq!(hash, digest(function, &certificate).as_ref());
        }
    }

    #[test]
    fn pss_names_its_hash_in_the_parameters() {
        let id = tlv(OBJECT_ID, &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 2]);
        let parameters = tlv(SEQUENCE, &tlv(FIRST, &tlv(SEQUENCE, &id)));
        assert_eq!(server_end_point(&certificate(&ending(RSA, 10), &parameters)).unwrap().len(), 48);
        let default = tlv(SEQUENCE, &[]);
        assert_eq!(server_end_point(&certificate(&ending(RSA, 10), &default)).unwrap().len(), 32);
    }

    #[test]
    fn what_has_no_hash_of_its_own_binds_nothing() {
        let ed25519 = [0x2B, 0x65, 0x70];
        assert_eq!(server_end_point(&certificate(&ed25519, &[])), None);
        let whole = certificate(&ending(ECDSA, 2), &[]);
        for end in 0..whole.len() - 70 {
            assert_eq!(server_end_point(&whole[..end]), None, "{end}");
        }
    }
}

use super::*;

fn with(values: &[&[u8]]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for value in values {
        headers.append(header::AUTHORIZATION, HeaderValue::from_bytes(value).unwrap());
    }
    headers
}

#[test]
fn basic_takes_what_clients_send() {
    for text in ["Basic YWRtaW46YTpi", "basic YWRtaW46YTpi", "BASIC  YWRtaW46YTpi "] {
        let Ok(Credentials::Basic { name, password }) = credentials(&with(&[text.as_bytes()])) else {
            panic!("{text}");
        };
        assert_eq!((name.as_str(), password.reveal()), ("admin", "a:b"));
    }
    // Padding given, padding left out, empty name and password, text beyond ASCII.
    for (name, password) in [("a", "b"), ("ab", "cd"), ("", ""), ("jürgen", "päss")] {
        let value = basic_header(name, &Secret::new(password));
        for text in [value.to_str().unwrap(), value.to_str().unwrap().trim_end_matches('=')] {
            let Ok(Credentials::Basic { name: n, password: p }) = credentials(&with(&[text.as_bytes()])) else {
                panic!("{text}");
            };
            assert_eq!((n.as_str(), p.reveal()), (name, password));
        }
    }
}

#[test]
fn bearer_tokens_are_opaque() {
    let Ok(Credentials::Bearer(token)) = credentials(&with(&[b"bearer abc.def-1~+/=="])) else { panic!() };
    assert_eq!(token.reveal(), "abc.def-1~+/==");
    assert_eq!(format!("{token:?}"), "***");
}

#[test]
fn what_is_not_well_formed_is_refused() {
    assert!(matches!(credentials(&HeaderMap::new()), Ok(Credentials::None)));
    assert_eq!(credentials(&with(&[b"Bearer a", b"Bearer b"])).err(), Some(BadCredentials::Repeated));
    assert_eq!(credentials(&with(&[b"Digest x"])).err(), Some(BadCredentials::Scheme));
    assert_eq!(credentials(&with(&[b""])).err(), Some(BadCredentials::Scheme));
    let control = basic_header("a\nb", &Secret::new("c"));
    let bytes = BASE64.encode([0xff, b':', b'x']);
    let bad: [&[u8]; 8] = [
        b"Basic",
        b"Basic !!!",
        b"Basic bm9jb2xvbg==",
        b"Bearer",
        b"Bearer a b",
        b"Bearer \xff",
        control.as_bytes(),
        &[b"Basic ", bytes.as_bytes()].concat(),
    ];
    for value in bad {
        assert_eq!(credentials(&with(&[value])).err(), Some(BadCredentials::Malformed), "{value:?}");
    }
}

#[test]
fn cookies_are_found_among_others() {
    let mut headers = HeaderMap::new();
    headers.append(header::COOKIE, HeaderValue::from_static("a=1; JSESSIONID=one;b=2; xJSESSIONID=no"));
    headers.append(header::COOKIE, HeaderValue::from_static("JSESSIONID=\"two\"; JSESSIONID=; junk; =x"));
    assert_eq!(cookies(&headers, "JSESSIONID").collect::<Vec<_>>(), ["one", "two"]);
    assert_eq!(cookies(&headers, "none").count(), 0);
}

#[test]
fn cookies_are_written_safely() {
    let options = CookieOptions { path: "/", secure: true, same_site: Some(SameSite::None), max_age: None };
    let value = set_cookie("SID", "abc", options).unwrap();
    assert_eq!(value, "SID=abc; Path=/; HttpOnly; SameSite=None; Secure");
    let gone = CookieOptions { secure: false, same_site: None, max_age: Some(Duration::ZERO), ..options };
    assert_eq!(set_cookie("SID", "", gone).unwrap(), "SID=; Path=/; HttpOnly; Max-Age=0");
    for (name, value) in [("", "x"), ("a b", "x"), ("a", "x;y"), ("a", "x\r\nb"), ("a=", "x"), ("a", "ü")] {
        assert!(set_cookie(name, value, options).is_none(), "{name} {value}");
    }
}

//! `portolan login` and `logout`.

use super::api::{Api, As, encoded, url_of};
use super::credentials::Credentials;
use super::{Future, moment, render};
use crate::ask;
use crate::cli::{ApiArgs, LoginArgs};
use crate::config::Surroundings;
use crate::core::system;
use crate::error::{Failure, OrFail};
use crate::output;
use portolan_model::Secret;
use serde_json::json;

/// Logs in by a password, makes an API token and stores it.
pub(super) async fn login(args: &LoginArgs, api: &ApiArgs, around: &Surroundings) -> Result<(), Failure> {
    let mut stored = Credentials::load(around)?;
    let url = match &api.url {
        Some(_) => url_of(api, &stored),
        None => ask::line("Server", &url_of(api, &stored))?.trim_end_matches('/').to_owned(),
    };
    let name = match &args.login {
        Some(name) => name.clone(),
        None => ask::line("Login", "admin")?,
    };
    let password = match &args.password_file {
        Some(file) => ask::first_line(file)?,
        None => ask::secret(&format!("Password of '{name}' (not shown while you type):"))?,
    };
    // Wherever the next command is started, the file must be found.
    let ca = match api.ca.clone().or_else(|| stored.ca(&url)) {
        Some(file) => Some(std::path::absolute(&file).or_fail(|| format!("{} is no file", file.display()))?),
        None => None,
    };
    let server = Api::to(&url, ca.as_deref(), As::Password(&name, &password), api)?;
    let host = portolan_http::tls::host_name().unwrap_or_else(|| "a host without a name".into());
    // Unique, so that logging in twice from one host does not end the first login.
    let about = format!("portolan login on {host}, {}", &system().1.uuid().simple().to_string()[20..]);
    let body = json!({ "name": about, "expires": moment(Some(&args.expires), Future)? });
    let made = server.post("/tokens", &body).await.map_err(|e| match e.code {
        crate::error::DENIED => Failure { hint: Some("login and password do not fit together".into()), ..e },
        _ => e,
    })?;
    let token = made.get("token").and_then(|t| t.as_str()).map(Secret::new);
    let token = token.ok_or_else(|| Failure::new(format!("the server at {url} gave no token")))?;
    stored.put(&url, &name, &token, ca);
    let file = stored.save(around)?;
    if api.json {
        let mut shown = made;
        if let Some(map) = shown.as_object_mut() {
            map.remove("token");
        }
        return output::json(&shown);
    }
    output::note(format!(
        "Logged in to {url} as {name}, until {}; the token is in {}.",
        render::when(&render::text(&made, "expires")),
        file.display()
    ));
    Ok(())
}

/// Ends the stored token of a server and forgets it, also when the server cannot be told.
pub(super) async fn logout(args: &ApiArgs, around: &Surroundings) -> Result<(), Failure> {
    let mut stored = Credentials::load(around)?;
    let url = url_of(args, &stored);
    let Some(token) = stored.token(&url) else {
        return Err(Failure::new(format!("there is no login to {url}")));
    };
    let told = async {
        let server = Api::to(&url, args.ca.clone().or_else(|| stored.ca(&url)).as_deref(), As::Token(&token), args)?;
        let id = render::text(&server.get("/whoami").await?, "token");
        server.delete(&format!("/tokens/{}", encoded(&id))).await
    };
    let told = told.await;
    stored.remove(&url);
    stored.save(around)?;
    match told {
        Ok(_) => output::note(format!("Logged out of {url}.")),
        Err(e) if e.code == crate::error::DENIED => output::note(format!("The login to {url} had ended already.")),
        Err(e) => {
            return Err(Failure { message: format!("the token is forgotten here, but not ended: {}", e.message), ..e });
        }
    }
    Ok(())
}

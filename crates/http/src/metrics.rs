//! What is counted of requests, for whoever keeps the counters.

use axum::http::Method;

/// Receives one call per answered request. Must be cheap: it runs on the request's own task.
pub trait HttpMetrics: Send + Sync {
    /// One request was answered. `method` comes from [`method_label`] and `route` is the matched route with its
    /// placeholders (`/api/vms/{id}`) or `unmatched`, so that no client can make up label values. `status` is 499 when
    /// the client left before the answer. `seconds` runs to the head of the answer.
    fn request(&self, listener: &str, method: &str, route: &str, status: u16, seconds: f64);
}

/// The method as a label: the nine that HTTP defines, `OTHER` for what a client invents.
pub fn method_label(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        "TRACE" => "TRACE",
        "CONNECT" => "CONNECT",
        _ => "OTHER",
    }
}

//! Says in our own words (R018, with the limit and what to do) that a message was too large to be read: tonic refuses
//! it before any handler sees it.

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

use futures_util::{TryFutureExt, future::MapOk};
use tonic::{
    Code, Status,
    body::Body,
    codegen::{
        Service,
        http::{Request, Response},
    },
    service::Routes,
};

use crate::{error::ProposeError, rpc::limits};

/// All services of a node.
#[derive(Clone)]
pub(super) struct Oversized(pub Routes);

type Served = <Routes as Service<Request<Body>>>::Future;

impl Service<Request<Body>> for Oversized {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = MapOk<Served, fn(Response<Body>) -> Response<Body>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<Request<Body>>::poll_ready(&mut self.0, context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.0.call(request).map_ok(in_our_words)
    }
}

fn in_our_words(response: Response<Body>) -> Response<Body> {
    // A success has its status in the trailers: nothing more to do for all but the refusals.
    if !response.headers().contains_key("grpc-status") {
        return response;
    }
    match Status::from_header_map(response.headers()).and_then(|status| too_large(&status)) {
        Some(error) => Status::from(error).into_http(),
        None => response,
    }
}

/// Reads tonic's "Error, decoded message length too large: found 5 bytes, the limit is: 4 bytes".
pub(in crate::rpc) fn too_large(status: &Status) -> Option<ProposeError> {
    if status.code() != Code::OutOfRange || !status.message().contains("message length too large") {
        return None;
    }
    let mut numbers = status.message().split_ascii_whitespace().filter_map(|word| word.parse().ok());
    let (size, limit) = (numbers.next()?, numbers.next()?);
    Some(ProposeError::TooLarge { size, limit: limits::command_within(limit) })
}

#[cfg(test)]
mod tests {
    use super::*;

    // That these are still tonic's words is shown over a real connection in `tests/cluster.rs`.
    #[test]
    fn both_numbers_are_read() {
        let status = Status::out_of_range(
            "Error, decoded message length too large: found 99999 bytes, the limit is: 5000 bytes",
        );
        let limit = limits::command_within(5000);
        assert_eq!(too_large(&status), Some(ProposeError::TooLarge { size: 99_999, limit }));
        assert_eq!(too_large(&Status::out_of_range("an index")), None);
    }
}

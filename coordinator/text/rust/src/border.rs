//! What every C entry point goes through: panics become errors, and bytes get an owner.

use std::any::Any;
use std::mem::ManuallyDrop;
use std::panic::{catch_unwind, AssertUnwindSafe};

use anyhow::{anyhow, Result};

/// Bytes that Rust allocated: the answer of a call, or its error message (UTF-8, one line).
#[repr(C)]
pub struct TextBuffer {
    data: *mut u8,
    size: usize,
    capacity: usize,
}

impl TextBuffer {
    fn own(bytes: Vec<u8>) -> Self {
        let mut bytes = ManuallyDrop::new(bytes);
        TextBuffer { data: bytes.as_mut_ptr(), size: bytes.len(), capacity: bytes.capacity() }
    }
}

/// # Safety
/// `buffer` came from this library and has not been freed.
#[no_mangle]
pub unsafe extern "C" fn trireme_text_buffer_free(buffer: TextBuffer) {
    if !buffer.data.is_null() {
        drop(Vec::from_raw_parts(buffer.data, buffer.size, buffer.capacity));
    }
}

/// Text that C++ owns, for the length of the call.
///
/// # Safety
/// `data` points at `size` readable bytes.
pub unsafe fn text_argument<'a>(data: *const u8, size: usize) -> Result<&'a str> {
    std::str::from_utf8(slice_argument(data, size)).map_err(|e| anyhow!("not valid UTF-8: {e}"))
}

/// A slice that C++ owns, for the length of the call; a null pointer is the empty slice.
///
/// # Safety
/// `data` points at `size` readable elements, or `size` is 0.
pub unsafe fn slice_argument<'a, T>(data: *const T, size: usize) -> &'a [T] {
    if size == 0 {
        return &[];
    }
    std::slice::from_raw_parts(data, size)
}

/// Token ids as the bytes that C++ reads back as an array of int32.
pub fn ids_to_bytes(ids: &[u32]) -> Vec<u8> {
    ids.iter().flat_map(|id| id.to_ne_bytes()).collect()
}

/// Runs `body`; 0 and its bytes in `out`, or 1 and the error message in `out`.
///
/// # Safety
/// `out` is writable.
pub unsafe fn answer(out: *mut TextBuffer, body: impl FnOnce() -> Result<Vec<u8>>) -> i32 {
    let (status, bytes) = match run(body) {
        Ok(bytes) => (0, bytes),
        Err(message) => (1, message.into_bytes()),
    };
    out.write(TextBuffer::own(bytes));
    status
}

/// Runs `body` and hands the object it makes to C++; null and the error message in `out` on
/// failure.
///
/// # Safety
/// `out` is writable.
pub unsafe fn build<T>(out: *mut TextBuffer, body: impl FnOnce() -> Result<T>) -> *mut T {
    match run(body) {
        Ok(object) => {
            out.write(TextBuffer::own(Vec::new()));
            Box::into_raw(Box::new(object))
        }
        Err(message) => {
            out.write(TextBuffer::own(message.into_bytes()));
            std::ptr::null_mut()
        }
    }
}

/// Frees an object that `build` made; null is fine.
///
/// # Safety
/// `object` came from `build` and is not used afterwards.
pub unsafe fn destroy<T>(object: *mut T) {
    if !object.is_null() {
        drop(Box::from_raw(object));
    }
}

fn run<T>(body: impl FnOnce() -> Result<T>) -> std::result::Result<T, String> {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(one_line(&format!("{error:#}"))),
        Err(payload) => Err(one_line(&format!("internal error: {}", panic_text(payload.as_ref())))),
    }
}

fn panic_text(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<String>() {
        return text.clone();
    }
    payload.downcast_ref::<&str>().map_or("panic", |text| text).to_string()
}

/// Without control characters, and bounded: messages quote what a client sent.
fn one_line(message: &str) -> String {
    const MAX_CHARS: usize = 1000;
    let words = message.split(|c: char| c.is_whitespace() || c.is_control());
    let line = words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    line.chars().take(MAX_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_a_message() {
        let result = run(|| -> Result<()> { panic!("boom\nat {}", 3) });
        assert_eq!(result.unwrap_err(), "internal error: boom at 3");
    }

    #[test]
    fn a_message_is_one_bounded_line() {
        assert_eq!(one_line("a\u{1b}[31m\u{0}b\n c"), "a [31m b c");
        assert_eq!(one_line(&"x".repeat(5000)).len(), 1000);
    }

    #[test]
    fn an_answer_survives_the_trip_through_the_buffer() {
        let mut out = TextBuffer { data: std::ptr::null_mut(), size: 0, capacity: 0 };
        let status = unsafe { answer(&mut out, || Ok(b"abc".to_vec())) };
        assert_eq!(status, 0);
        assert_eq!(unsafe { slice_argument(out.data, out.size) }, b"abc");
        unsafe { trireme_text_buffer_free(out) };
    }
}

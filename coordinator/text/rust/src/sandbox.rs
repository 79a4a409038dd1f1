//! Runs in a child process, with limits on memory and time, what could ask for any amount of them:
//! an allocation that fails, or a comparison that takes for ever, cannot be ended from within.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail, Context, Result};

/// Beyond what the process had when the child was made.
const MAX_MEMORY_BYTES: u64 = 256 << 20;
const MAX_CPU_SECONDS: u64 = 2;
/// Of the clock: a busy machine gives a child little time.
const DEADLINE: Duration = Duration::from_secs(20);

const OK: u8 = 0;
const FAILED: u8 = 1;

/// What `body` gives. It may not rely on other threads, nor on locks that they may hold now, and
/// what it changes is lost. `name` says in errors whose work it is.
pub fn run_bounded(name: &str, body: impl FnOnce() -> Result<String>) -> Result<String> {
    let mut ends = [0; 2];
    // SAFETY: `ends` has room for two descriptors.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        bail!("no pipe for {name}: {}", std::io::Error::last_os_error());
    }
    // SAFETY: both are open, and nobody else's.
    let (mut reader, writer) = unsafe { (File::from_raw_fd(ends[0]), File::from_raw_fd(ends[1])) };
    let memory = data_bytes()? + MAX_MEMORY_BYTES;
    // SAFETY: the child calls only `serve`, which never returns here. glibc's malloc works in it.
    let child = unsafe { libc::fork() };
    match child {
        -1 => bail!("no process for {name}: {}", std::io::Error::last_os_error()),
        0 => serve(writer.into_raw_fd(), memory, body),
        _ => {}
    }
    drop(writer);
    let mut answer = Vec::new();
    let in_time = read_by(Instant::now() + DEADLINE, &mut reader, &mut answer);
    // SAFETY: `child` is ours and has not been waited for.
    let status = unsafe {
        if !in_time {
            libc::kill(child, libc::SIGKILL);
        }
        let mut status = 0;
        while libc::waitpid(child, &mut status, 0) < 0 && interrupted() {}
        status
    };
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).context("not valid UTF-8");
    match answer.split_first() {
        Some((&OK, bytes)) if libc::WIFEXITED(status) => text(bytes),
        Some((&FAILED, bytes)) if libc::WIFEXITED(status) => Err(anyhow!("{}", text(bytes)?)),
        _ if libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGKILL => {
            bail!("{name} takes more than {MAX_CPU_SECONDS} s")
        }
        _ => bail!("{name} takes more than {} MiB of memory", MAX_MEMORY_BYTES >> 20),
    }
}

fn interrupted() -> bool {
    std::io::Error::last_os_error().kind() == std::io::ErrorKind::Interrupted
}

/// What RLIMIT_DATA counts of this process now (proc(5), statm).
fn data_bytes() -> Result<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").context("/proc/self/statm")?;
    let pages = statm.split(' ').nth(5).and_then(|pages| pages.parse::<u64>().ok());
    // SAFETY: no memory is touched.
    let page_bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as u64;
    Ok(pages.context("/proc/self/statm")? * page_bytes)
}

/// The child, to its end.
fn serve(writer: i32, memory: u64, body: impl FnOnce() -> Result<String>) -> ! {
    // Descriptor 0 is the answer's; nothing else of the parent's stays open, connections least.
    const ANSWER: i32 = 0;
    // SAFETY: system calls on this process alone, with valid arguments.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        for signal in 1..libc::SIGRTMIN() {
            libc::signal(signal, libc::SIG_DFL);
        }
        libc::dup2(writer, ANSWER);
        libc::syscall(libc::SYS_close_range, ANSWER + 1, u32::MAX, 0);
        limit(libc::RLIMIT_CORE, 0);
        limit(libc::RLIMIT_DATA, memory);
        limit(libc::RLIMIT_CPU, MAX_CPU_SECONDS);
    }
    let (status, bytes) = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(text)) => (OK, text),
        Ok(Err(error)) => (FAILED, format!("{error:#}")),
        Err(_) => (FAILED, "internal error".to_string()),
    };
    // SAFETY: the descriptor is open; _exit leaves the parent's buffers and objects alone.
    unsafe {
        let mut answer = File::from_raw_fd(ANSWER);
        let sent = answer.write_all(&[status]).and_then(|()| answer.write_all(bytes.as_bytes()));
        libc::_exit(i32::from(sent.is_err()));
    }
}

unsafe fn limit(resource: libc::__rlimit_resource_t, most: u64) {
    let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
    libc::setrlimit(resource, &limit);
}

/// Reads to the end. False: not within the deadline.
fn read_by(deadline: Instant, reader: &mut File, answer: &mut Vec<u8>) -> bool {
    let mut chunk = [0; 1 << 16];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut waiting = libc::pollfd { fd: reader.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid entry.
        let ready = unsafe { libc::poll(&mut waiting, 1, left.as_millis() as i32) };
        if ready == 0 {
            return false;
        }
        if ready < 0 {
            continue;
        }
        match reader.read(&mut chunk) {
            Ok(0) => return true,
            Ok(n_bytes) => answer.extend_from_slice(&chunk[..n_bytes]),
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_what_the_body_gives() {
        assert_eq!(run_bounded("it", || Ok("x".repeat(300_000))).unwrap().len(), 300_000);
        let error = run_bounded("it", || bail!("no {}", 1)).unwrap_err();
        assert_eq!(error.to_string(), "no 1");
    }

    #[test]
    fn a_panic_stays_in_the_child() {
        assert_eq!(run_bounded("it", || panic!("boom")).unwrap_err().to_string(), "internal error");
    }

    #[test]
    fn too_much_memory_ends_it() {
        let error = run_bounded("it", || {
            let all: Vec<String> = (0..300).map(|_| "x".repeat(1 << 20)).collect();
            Ok(all.len().to_string())
        });
        assert_eq!(error.unwrap_err().to_string(), "it takes more than 256 MiB of memory");
    }

    #[test]
    fn too_much_time_ends_it() {
        let error = run_bounded("it", || loop {
            std::hint::black_box(0);
        });
        assert_eq!(error.unwrap_err().to_string(), "it takes more than 2 s");
    }
}

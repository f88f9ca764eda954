//! What a mount serves beside the filesystem: the control socket, through which operators ask it.
//!
//! `control.sock` in the store's directory, for the store's owner and root alone. A request is one JSON object on a line,
//! `{"request":"status"}`; the answer is a line too, `{"ok":...}` or `{"error":{"code","what","why","next"}}`, and what takes
//! long sends `{"progress":{"done","total"}}` before it. A connection takes one request or several. What can be asked for
//! is a table, in `requests`.

mod appended;
mod beat;
mod client;
mod control;
mod count;
mod events;
mod lines;
mod peering;
mod requests;
pub mod scrub;
mod settings;
pub mod space;
mod status;
pub mod version;
mod watch;

pub use beat::Beat;
pub use client::{Client, Unanswered};
pub use control::Control;
pub use events::{EVENTS, Events, newest_event};
pub use peering::{Peers, Prepared, change_request, has_peers, invite, own_key, told_closed};
pub use settings::{edit_value, expiry_value, settings_value};
pub use status::Served;

/// Held while `config.toml` is changed, by whichever of the threads that answer.
static CHANGING: parking_lot::Mutex<()> = parking_lot::Mutex::new(());

/// The socket's name in the store's directory.
pub const SOCKET: &str = "control.sock";

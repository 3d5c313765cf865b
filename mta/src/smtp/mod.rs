//! SMTP without sockets: grammar, server session, client session.

//! The attempts that a worker holds, by token

use alloc::boxed::Box;
use alloc::vec::Vec;

use heapless::index_map::FnvIndexMap;

use crate::ids::Token;
use crate::limits::WORKER_ATTEMPTS_MAX;
use crate::worker::attempt::Attempt;

/// A table of attempts, in the order of their arrival but for those that took the place of one that is gone
///
/// All its room is allocated at once. An attempt is large: the index is over all that there may be, and the attempts
/// themselves lie in as many places as the settings allow.
#[derive(Debug)]
pub(crate) struct Attempts {
    /// The place of a token is that of its attempt; none where there are so few that looking at all is as fast
    places: Option<Box<FnvIndexMap<Token, (), WORKER_ATTEMPTS_MAX>>>,
    held: Vec<(Token, Attempt)>,
    max: usize,
}

/// Tables of up to so many attempts have no index, which costs 12 KiB
const UNINDEXED_MAX: u16 = 8;

impl Attempts {
    /// Room for so many, allocated now or as it is needed
    pub(crate) fn new(max: u16, reserve: bool) -> Self {
        let held = if reserve { Vec::with_capacity(max.into()) } else { Vec::new() };
        Attempts { places: (max > UNINDEXED_MAX).then(Box::default), held, max: max.into() }
    }

    fn place(&self, token: &Token) -> Option<usize> {
        match &self.places {
            Some(places) => places.get_index_of(token),
            None => self.held.iter().position(|(held, _)| held == token),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }

    /// Adds an attempt; `false` if there is no room
    pub(crate) fn insert(&mut self, token: Token, attempt: Attempt) -> bool {
        debug_assert!(!self.contains(&token), "an attempt comes once");
        let indexed = |places: &mut Box<FnvIndexMap<_, _, _>>| places.insert(token, ()).is_ok();
        let fits = self.held.len() < self.max && self.places.as_mut().is_none_or(indexed);
        if fits {
            self.held.push((token, attempt));
        }
        fits
    }

    /// Takes an attempt out; the last one takes its place
    pub(crate) fn swap_remove(&mut self, token: &Token) -> Option<Attempt> {
        let place = self.place(token)?;
        if let Some(places) = &mut self.places {
            places.swap_remove(token)?;
        }
        Some(self.held.swap_remove(place).1)
    }

    pub(crate) fn contains(&self, token: &Token) -> bool {
        self.place(token).is_some()
    }

    pub(crate) fn get(&self, token: &Token) -> Option<&Attempt> {
        self.get_index(self.place(token)?).map(|(_, attempt)| attempt)
    }

    pub(crate) fn get_mut(&mut self, token: &Token) -> Option<&mut Attempt> {
        let place = self.place(token)?;
        self.held.get_mut(place).map(|(_, attempt)| attempt)
    }

    /// The attempt in this place
    pub(crate) fn get_index(&self, place: usize) -> Option<(&Token, &Attempt)> {
        self.held.get(place).map(|(token, attempt)| (token, attempt))
    }

    /// The first one of which this holds
    pub(crate) fn find(&self, holds: impl Fn(&Attempt) -> bool) -> Option<Token> {
        self.held.iter().find(|(_, attempt)| holds(attempt)).map(|(token, _)| *token)
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (&Token, &Attempt)> + Clone {
        self.held.iter().map(|(token, attempt)| (token, attempt))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (&Token, &mut Attempt)> {
        self.held.iter_mut().map(|(token, attempt)| (&*token, attempt))
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &Attempt> + Clone {
        self.held.iter().map(|(_, attempt)| attempt)
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut Attempt> {
        self.held.iter_mut().map(|(_, attempt)| attempt)
    }
}

impl Clone for Attempts {
    /// Copies what is in use, and keeps the room around it
    fn clone(&self) -> Self {
        let mut held = Vec::with_capacity(self.held.capacity());
        held.extend_from_slice(&self.held);
        Attempts { places: self.places.clone(), held, max: self.max }
    }
}

/// Which cache slot holds what: 0..P-1 conditioning, P..P+W-1 a ring of the last W generated tokens, written in place.
public struct Slots {
    public let prefix, window: Int
    public private(set) var filled = 0
    public private(set) var generated = 0
    /// Whether each slot may be seen by the next step.
    public private(set) var visible: [Bool]

    public init(prefix: Int, window: Int) {
        self.prefix = prefix
        self.window = window
        visible = Array(repeating: false, count: prefix + window)
    }

    /// Position of the token the next step takes.
    public var position: Int { filled + generated }

    /// Accounts for `count` prefix tokens written to the next conditioning slots.
    public mutating func fill(_ count: Int) {
        for slot in filled..<(filled + count) { visible[slot] = true }
        filled += count
    }

    /// The slot of the next generated token, which it may see itself.
    public mutating func nextRingSlot() -> Int {
        let slot = prefix + generated % window
        visible[slot] = true
        generated += 1
        return slot
    }

    /// What one column is told that fills `slot`: which slots it may see, and the one that it writes.
    func masks(writing slot: Int) -> [String: Tensor] {
        [
            "attention_bias": Tensor(rows: 1, visible.count) { _, other in visible[other] ? 0 : hidden },
            "cache_write": Tensor(rows: 1, visible.count) { _, other in other == slot ? 1 : 0 },
        ]
    }
}

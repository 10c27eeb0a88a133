/// Philox4x32-10 (Salmon et al., SC'11): the contract's random numbers, so that every runtime says the same tokens.
public func philox(key: (UInt32, UInt32), counter: (UInt32, UInt32, UInt32, UInt32)) -> (UInt32, UInt32, UInt32, UInt32) {
    var (k0, k1) = key
    var (c0, c1, c2, c3) = counter
    for _ in 0..<10 {
        let low = UInt64(0xD251_1F53) * UInt64(c0)
        let high = UInt64(0xCD9E_8D57) * UInt64(c2)
        (c0, c1, c2, c3) = (
            UInt32(truncatingIfNeeded: high >> 32) ^ c1 ^ k0, UInt32(truncatingIfNeeded: high),
            UInt32(truncatingIfNeeded: low >> 32) ^ c3 ^ k1, UInt32(truncatingIfNeeded: low)
        )
        k0 &+= 0x9E37_79B9
        k1 &+= 0xBB67_AE85
    }
    return (c0, c1, c2, c3)
}

/// The draw of generated token number `token`, and its redraw, in [0, 1) with 24 bits.
public func uniforms(seed: UInt64, token: Int) -> (Float, Float) {
    let key = (UInt32(truncatingIfNeeded: seed), UInt32(truncatingIfNeeded: seed >> 32))
    let counter = (UInt32(truncatingIfNeeded: token), UInt32(truncatingIfNeeded: UInt64(token) >> 32), UInt32(0), UInt32(0))
    let words = philox(key: key, counter: counter)
    return (Float(words.0 >> 8) * 0x1p-24, Float(words.1 >> 8) * 0x1p-24)
}

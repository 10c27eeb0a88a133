import XCTest

@testable import SottovoceCore

final class CoreTests: XCTestCase {
    /// Known answers of Random123's kat_vectors, philox4x32-10.
    func testPhilox() {
        let zero = philox(key: (0, 0), counter: (0, 0, 0, 0))
        XCTAssertEqual([zero.0, zero.1, zero.2, zero.3], [0x6627_E8D5, 0xE169_C58D, 0xBC57_AC4C, 0x9B00_DBD8])
        let ones = philox(key: (.max, .max), counter: (.max, .max, .max, .max))
        XCTAssertEqual([ones.0, ones.1, ones.2, ones.3], [0x408F_276D, 0x41C8_3B0E, 0xA20B_C7C6, 0x6D54_51FD])
    }

    func testTheRingGoesRound() {
        var slots = Slots(prefix: 4, window: 3)
        slots.fill(2)
        XCTAssertEqual((0..<5).map { _ in slots.nextRingSlot() }, [4, 5, 6, 4, 5])
        XCTAssertEqual(slots.visible, [true, true, false, false, true, true, true])
        XCTAssertEqual(slots.position, 7)
    }

    func testWav() {
        let data = wav([0, 1, -2], sampleRate: 16000)
        XCTAssertEqual(data.count, 44 + 6)
        XCTAssertEqual(Array(data.suffix(6)), [0, 0, 0xFF, 0x7F, 0x01, 0x80])
    }
}
